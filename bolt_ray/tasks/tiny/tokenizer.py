"""A character-level tokenizer: one token per printable ASCII character and answer tag, and what more is asked for.

Encoding adds nothing (no beginning, no end of sequence), decoding joins without spaces, and text made of printable
ASCII and newlines comes back exactly. The answer tags are ordinary vocabulary entries: a special token would be
dropped from the decoded completion, and the answer could not be found.
"""

from __future__ import annotations

import string
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD = "<pad>"
EOS = "<eos>"
UNKNOWN = "<unk>"

VOCABULARY: tuple[str, ...] = (
    PAD,
    EOS,
    UNKNOWN,
    "<answer>",
    "</answer>",
    *string.digits,
    *(chr(code) for code in range(32, 127) if chr(code) not in string.digits),
    "\n",
)


MAX_MORE_CHARACTERS = 4000
"""Of a tiny model, as many embeddings more would be nearly all of its weights."""


def more_characters(texts: Iterable[str]) -> str:
    """The characters of some texts that `VOCABULARY` lacks, in order.

    Raises:
        ValueError: there are too many.
    """
    found = sorted({character for text in texts for character in text} - set(VOCABULARY))
    if len(found) > MAX_MORE_CHARACTERS:
        raise ValueError(
            f"there are {len(found):,} different characters beyond ASCII; a tiny model takes {MAX_MORE_CHARACTERS:,}"
        )
    return "".join(found)


def build_tokenizer(*, max_length: int, more: str = "") -> PreTrainedTokenizerFast:
    """The tokenizer in Transformers form.

    Args:
        max_length: the model's context in tokens.
        more: characters beside those of `VOCABULARY`, see `more_characters`.
    """
    vocabulary = {token: i for i, token in enumerate((*VOCABULARY, *more))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"</?answer>|[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        model_max_length=max_length,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
