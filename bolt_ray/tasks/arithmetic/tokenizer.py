"""A character-level tokenizer: one token per printable ASCII character, two more for the answer tags.

Encoding adds nothing (no beginning, no end of sequence), decoding joins without spaces, and text made of printable
ASCII and newlines comes back exactly. The answer tags are ordinary vocabulary entries: a special token would be
dropped from the decoded completion, and the answer could not be found.
"""

from __future__ import annotations

import string

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from bolt_ray.tasks.arithmetic.problems import ANSWER_CLOSE, ANSWER_OPEN

PAD = "<pad>"
EOS = "<eos>"
UNKNOWN = "<unk>"

VOCABULARY: tuple[str, ...] = (
    PAD,
    EOS,
    UNKNOWN,
    ANSWER_OPEN,
    ANSWER_CLOSE,
    *string.digits,
    *(chr(code) for code in range(32, 127) if chr(code) not in string.digits),
    "\n",
)


def build_tokenizer(*, max_length: int) -> PreTrainedTokenizerFast:
    """The tokenizer in Transformers form; ``max_length`` is the model's context in tokens."""
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(VOCABULARY)}, unk_token=UNKNOWN))
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
