"""Texts that image generators leave in their files: which program, which model, which prompt."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

Details = dict[str, str]


@dataclass(frozen=True, slots=True)
class Text:
    """One text of a file.

    Attributes:
        key: its name, in lower case.
        value: the text.
        json: its keys and values, where it is a JSON object; else empty.
    """

    key: str
    value: str
    json: Mapping[str, Any]


def parsed(key: str, value: str) -> Text:
    """A text, its JSON read once."""
    prefix = _NODE_PREFIX.match(value)  # in EXIF, ComfyUI's texts begin with their names
    if prefix is not None:
        key, value = prefix[1].lower(), value[prefix.end() :]
    return Text(key, value, _json(value))


_PARAMETER: Final = re.compile(r"(?:^|[,\n])\s*([A-Z][\w ]{0,30}): ([^,\n]{1,200})")
_STEPS: Final = re.compile(r"(?:^|\n|, )Steps: \d+")
_JOB: Final = re.compile(r"Job ID: ([0-9a-f]{8}-[0-9a-f-]{27})")
_DREAM: Final = re.compile(r"\s-S\s?(\d+)")
_NODE_PREFIX: Final = re.compile(r"(workflow|prompt):\s*(?=\{)", re.IGNORECASE)
_NAN: Final = re.compile(r"\bNaN\b|-?\bInfinity\b")
_MAX_NODES: Final = 5_000


def a1111(texts: Sequence[Text]) -> Details | None:
    """Stable Diffusion web UI and the many programs that write its `parameters` text."""
    for item in texts:
        text = item.value[:20_000]
        match = _STEPS.search(text)
        if match is None or not ("Sampler: " in text or "Seed: " in text or "CFG scale: " in text):
            continue
        settings = dict(_PARAMETER.findall(text[match.start() :]))
        prompt = text[: match.start()].partition("\nNegative prompt:")[0]
        return _details(
            generator=settings.get("Version", "").removeprefix("v").strip(),
            model=settings.get("Model"),
            sampler=settings.get("Sampler"),
            seed=settings.get("Seed"),
            steps=settings.get("Steps"),
            prompt=prompt,
        )
    return None


def comfyui(texts: Sequence[Text]) -> Details | None:
    """The graph of ComfyUI: `prompt` holds nodes by number, `workflow` the drawing of them."""
    details: Details | None = None
    for text in texts:
        nodes = [node for node in text.json.values() if isinstance(node, dict) and "class_type" in node]
        if nodes:
            return _nodes(nodes)
        if isinstance(text.json.get("nodes"), list) and not {"links", "last_node_id"}.isdisjoint(text.json):
            details = {"generator": "ComfyUI"}
    return details


def _nodes(nodes: Sequence[Mapping[str, Any]]) -> Details:
    inputs: dict[str, Any] = {}
    prompt = ""
    for node in nodes[:_MAX_NODES]:
        own = node.get("inputs")
        if isinstance(own, dict):
            # A node's other values are links to nodes: lists.
            plain = {key: value for key, value in own.items() if isinstance(value, str | int | float)}
            inputs = {**plain, **inputs}
            if "TextEncode" in str(node["class_type"]):
                prompt = prompt or str(plain.get("text", ""))
    return _details(
        generator="ComfyUI",
        model=inputs.get("ckpt_name", inputs.get("unet_name")),
        sampler=inputs.get("sampler_name"),
        seed=inputs.get("seed", inputs.get("noise_seed")),
        steps=inputs.get("steps"),
        prompt=prompt,
    )


def invokeai(texts: Sequence[Text]) -> Details | None:
    """InvokeAI: `invokeai_metadata`, before version 3 `sd-metadata`, before that `Dream`."""
    for text in texts:
        if text.key in ("invokeai_metadata", "sd-metadata"):
            image = text.json.get("image")
            settings = {**text.json, **image} if isinstance(image, dict) else text.json
            return {"generator": f"InvokeAI {text.json.get('app_version', '')}".strip(), **_common(settings)}
        dream = _DREAM.search(text.value[:20_000]) if text.key == "dream" else None
        if dream is not None:
            prompt = text.value.partition('" -')[0].strip('"')
            return _details(generator="InvokeAI", seed=dream[1], prompt=prompt)
    return None


def novelai(texts: Sequence[Text]) -> Details | None:
    """NovelAI: the chunk `Software`, with its settings in `Comment` and the model in `Source`."""
    by_key = {text.key: text for text in reversed(texts)}
    if not any(key in by_key and "novelai" in by_key[key].value[:100].lower() for key in ("software", "title")):
        return None
    settings = _common(by_key["comment"].json) if "comment" in by_key else {}
    model, prompt = (by_key[key].value if key in by_key else "" for key in ("source", "description"))
    return {**settings, **_details(generator="NovelAI", model=model, prompt=prompt)}


def fooocus(texts: Sequence[Text]) -> Details | None:
    """Fooocus: a `fooocus_scheme`, or JSON that names its version."""
    scheme = any(text.key == "fooocus_scheme" for text in texts)
    for text in texts:
        version = text.json.get("version", text.json.get("Version"))
        named = isinstance(version, str) and version.lower().startswith("fooocus")
        if named or (scheme and text.key in ("parameters", "usercomment") and text.json):
            return {"generator": str(version) if named else "Fooocus", **_common(text.json)}
    return None


def draw_things(texts: Sequence[Text]) -> Details | None:
    """Draw Things: JSON in UserComment whose prompt is `c`."""
    for text in texts:
        if isinstance(text.json.get("c"), str) and {"model", "sampler", "seed"} <= text.json.keys():
            return {"generator": "Draw Things", **_common({**text.json, "prompt": text.json["c"]})}
    return None


def midjourney(texts: Sequence[Text]) -> Details | None:
    """Midjourney: a description that ends in the number of its job."""
    for text in texts:
        match = _JOB.search(text.value[:20_000])
        if match is not None:
            return _details(generator="Midjourney", job=match[1], prompt=text.value[: match.start()])
    return None


def swarmui(texts: Sequence[Text]) -> Details | None:
    """SwarmUI: JSON with `sui_image_params`."""
    for text in texts:
        own = text.json.get("sui_image_params")
        if isinstance(own, dict):
            return {"generator": f"SwarmUI {own.get('swarm_version', '')}".strip(), **_common(own)}
    return None


def prompt_json(texts: Sequence[Text]) -> Details | None:
    """JSON of any other program that holds a prompt beside a seed, a model or a sampler."""
    for text in texts:
        settings = {"seed", "model", "sampler", "steps"}
        if isinstance(text.json.get("prompt"), str) and not settings.isdisjoint(text.json):
            return _common(text.json)
    return None


# The programs by name come before the forms that others share.
GENERATORS: Final[Mapping[str, Callable[[Sequence[Text]], Details | None]]] = {
    "comfyui": comfyui,
    "invokeai": invokeai,
    "novelai": novelai,
    "swarmui": swarmui,
    "fooocus": fooocus,
    "draw_things": draw_things,
    "midjourney": midjourney,
    "a1111": a1111,
    "prompt_json": prompt_json,
}


def _common(value: Mapping[str, Any]) -> Details:
    """The settings that most programs' JSON calls by the same names."""
    model = value.get("model", value.get("base_model", value.get("model_weights")))
    if isinstance(model, dict):
        model = model.get("name", model.get("model_name", model.get("key")))
    prompt = value.get("prompt", value.get("positive_prompt", value.get("Prompt")))
    return _details(
        model=model,
        sampler=value.get("sampler", value.get("scheduler", value.get("sampler_name"))),
        seed=value.get("seed"),
        steps=value.get("steps"),
        prompt=prompt if isinstance(prompt, str) else None,
    )


def _details(**values: object) -> Details:
    return {name: str(value) for name, value in values.items() if isinstance(value, str | int | float) and value != ""}


def _json(text: str) -> dict[str, Any]:
    if not text.lstrip().startswith("{"):
        return {}
    # ComfyUI writes NaN, which JSON does not have.
    for spelled in (text, _NAN.sub("null", text)):
        try:
            value = msgspec.json.decode(spelled)
        except (msgspec.DecodeError, ValueError, RecursionError):
            continue
        return value if isinstance(value, dict) else {}
    return {}
