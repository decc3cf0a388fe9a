"""The chat templates of the checkpoints on the hub, as their `chat_template.json` has them.

ONEVISION, MISTRAL, VICUNA and LLAMA3 are the hub's own texts, found again in public code that quotes them
(llava-onevision-qwen2-*-ov-hf, llava-v1.6-mistral-7b-hf, llava-v1.6-vicuna-*-hf, llama3-llava-next-8b-hf). YI and QWEN
(llava-v1.6-34b-hf, llava-next-72b-hf) follow the same authors' pattern and write, for one system and one user turn,
the prompts that transformers' conversion script checks these two against (`convert_llava_next_weights_to_hf.py`).
"""

from __future__ import annotations


def _each(kind: str, said: str) -> str:
    """Writes `said`, a Jinja expression, for each part of a message that is of this kind."""
    chosen = f"message['content'] | selectattr('type', 'equalto', '{kind}')"
    return f"{{% for content in {chosen} %}}{said}{{% endfor %}}"


def _spoken(said: str) -> str:
    """The text parts; the assistant's are marked for training, as the newer templates do."""
    marked = f"{{% generation %}}{said}{{% endgeneration %}}"
    theirs = f"{{% if message['role'] != 'assistant' %}}{_each('text', said)}"
    return f"{{# Render all text next #}}{theirs}{{% else %}}{_each('text', marked)}{{% endif %}}"


ONEVISION = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + ' '}}"
    "{# Render all images first #}" + _each("image", "{{ '<image>' }}") +
    "{# Render all video then #}" + _each("video", "{{ '<video>' }}") +
    _spoken("{{ '\\n' + content['text'] }}") +
    "{{'<|im_end|>'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)  # fmt: skip

MISTRAL = (
    "{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ '<<SYS>>\\n' + message['content'][0]['text'] + '\\n<</SYS>>\\n\\n' }}"
    "{% elif message['role'] == 'user' %}{{ '[INST] ' }}"
    "{# Render all images first #}" + _each("image", "{{ '<image>\\n' }}") +
    "{# Render all text next #}" + _each("text", "{{ content['text'] }}") + "{{' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'][0]['text'] + '</s> '}}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)  # fmt: skip

VICUNA = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{# Render all images first #}" + _each("image", "{{ '<image>\\n' }}") +
    _spoken("{{ content['text'] + ' '}}") +
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)  # fmt: skip

LLAMA3 = (
    "{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'}}"
    "{# Render all images first #}" + _each("image", "{{ '<image>' }}") +
    "{# Render all text next #}" + _each("text", "{{ '\\n' + content['text'] + '<|eot_id|>' }}") +
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)  # fmt: skip


def _chatml(end: str) -> str:
    return (
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n'}}"
        "{# Render all images first #}" + _each("image", "{{ '<image>\\n' }}") +
        "{# Render all text next #}" + _each("text", "{{ content['text'] }}") +
        f"{{{{'{end}'}}}}{{% endfor %}}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )  # fmt: skip


YI = _chatml("<|im_end|>")
QWEN = _chatml("<|im_end|>\\n")

# What Mistral's own tokenizer brings along, for contents that are plain strings. The processor's template comes first.
MISTRAL_WITHOUT_PICTURES = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
