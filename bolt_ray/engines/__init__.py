"""The libraries that compute: DeepSpeed in ``learner``, vLLM in ``vllm``."""
