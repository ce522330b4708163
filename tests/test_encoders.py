from __future__ import annotations

import os
import random
import urllib.request
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from muflow_cli.engine.encoder_row import Library
from muflow_cli.engine.encoders import ENCODERS, build_backbone, chosen_layers, load_backbone
from muflow_cli.engine.weights import find_weights, read_weights
from muflow_cli.errors import BadSpec, BadWeights

LEARNED = [name for name, row in ENCODERS.items() if row.library is Library.TORCHVISION]


def whole_network(name: str) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return getattr(torchvision.models, name)().eval()


def zeros(name: str) -> dict[str, torch.Tensor]:
    """Weights of the right shapes; to draw those of a large network takes seconds."""
    with torch.device("meta"):
        shapes = getattr(torchvision.models, name)().state_dict()
    return {key: torch.zeros_like(tensor, device="cpu") for key, tensor in shapes.items()}


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_the_table_tells_the_channels_and_strides_of_every_layer(name: str) -> None:
    layers = chosen_layers(name, ())
    backbone = load_backbone(name, layers, zeros(name) if name in LEARNED else {})
    with torch.inference_mode():
        maps = list(backbone(torch.rand(1, 3, 64, 64)).values())
    assert [tuple(m.shape) for m in maps] == [(1, c.channels, 64 // c.stride, 64 // c.stride) for c in layers]


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "mobilenet_v3_large"])
def test_a_backbone_computes_what_the_whole_network_computes_there(name: str) -> None:
    network, layers = whole_network(name), chosen_layers(name, ())
    seen: dict[str, torch.Tensor] = {}
    for layer in layers:
        network.get_submodule(layer.name).register_forward_hook(
            lambda _module, _input, output, key=layer.name: seen.update({key: output})
        )
    image = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        network(image)
        maps = load_backbone(name, layers, network.state_dict())(image)
    for layer in layers:
        torch.testing.assert_close(maps[layer.name], seen[layer.name])


def test_nothing_behind_the_last_layer_is_kept() -> None:
    kept = build_backbone("resnet50", chosen_layers("resnet50", ("layer1",))).state_dict()
    assert kept
    assert not [key for key in kept if key.startswith(("layer2", "layer3", "layer4", "fc"))]


def test_a_missing_tensor_is_named() -> None:
    state = whole_network("resnet18").state_dict()
    del state["layer1.0.conv2.weight"]
    with pytest.raises(BadWeights, match=r"layer1\.0\.conv2\.weight"):
        load_backbone("resnet18", chosen_layers("resnet18", ()), state)


def test_a_misshapen_tensor_is_named_with_both_shapes() -> None:
    state = whole_network("resnet34").state_dict() | {"conv1.weight": torch.zeros(64, 3, 3, 3)}
    with pytest.raises(BadWeights, match=r"conv1\.weight has shape \(64, 3, 3, 3\).*\(64, 3, 7, 7\)"):
        load_backbone("resnet34", chosen_layers("resnet34", ()), state)


def test_weights_that_are_not_numbers_are_refused() -> None:
    state = whole_network("resnet18").state_dict()
    state["conv1.weight"][0, 0, 0, 0] = float("nan")
    with pytest.raises(BadWeights, match="NaN or infinite"):
        load_backbone("resnet18", chosen_layers("resnet18", ()), state)


def test_an_unknown_encoder_or_layer_names_those_there_are() -> None:
    with pytest.raises(BadSpec, match="resnet18, resnet34, resnet50"):
        chosen_layers("vgg", ())
    with pytest.raises(BadSpec, match="layer1, layer2, layer3"):
        chosen_layers("resnet50", ("layer9",))


def test_pth_and_safetensors_files_give_the_same_backbone(tmp_path: Path) -> None:
    state = whole_network("resnet18").state_dict()
    torch.save(state, tmp_path / "w.pth")
    save_file(state, tmp_path / "w.safetensors")
    layers = chosen_layers("resnet18", ())
    first, second = (
        load_backbone("resnet18", layers, read_weights(tmp_path / n).tensors) for n in ("w.pth", "w.safetensors")
    )
    assert first.state_dict().keys() == second.state_dict().keys()
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key])


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('code from a weights file ran')",))


def test_a_pth_file_that_holds_code_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"conv1.weight": Evil()}, tmp_path / "w.pth")
    with pytest.raises(BadWeights, match="plain tensors"):
        read_weights(tmp_path / "w.pth")


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x00" * 64])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_broken_weights_file_is_one_sentence_that_names_it(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadWeights, match=name):
        read_weights(tmp_path / name)


def test_a_weights_file_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadWeights, match="No such file"):
        read_weights(tmp_path / "absent.safetensors")


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_every_damaged_pth_file_is_one_sentence_or_named_tensors(tmp_path: Path, form: str) -> None:
    torch.save(
        {f"{i}.weight": torch.ones(i) for i in range(9)}, tmp_path / "w", _use_new_zipfile_serialization=form == "zip"
    )
    data, path, draw = (tmp_path / "w").read_bytes(), tmp_path / "w.pth", random.Random(4)
    refused = 0
    for _ in range(200):
        mutant = bytearray(data)
        at = draw.randrange(len(data))
        mutant[at : at + draw.choice((1, 1, 4, 40))] = draw.choice(
            (b"", bytes([mutant[at] ^ 1 << draw.randrange(8)]), b"}")
        )
        path.write_bytes(mutant)
        try:
            assert all(isinstance(tensor, torch.Tensor) for tensor in read_weights(path).tensors.values())
        except BadWeights as error:
            refused += 1
            assert "\n" not in str(error)  # noqa: PT017
    assert refused > 50


def test_a_pipe_is_no_weights_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w.pth")
    with pytest.raises(BadWeights, match="are not a file: check"):
        read_weights(tmp_path / "w.pth")


def test_offline_the_sentence_says_what_to_download_and_which_option_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An address that refuses at once stands in for a machine without a network.
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    urllib.request.install_opener(urllib.request.build_opener())
    with pytest.raises(BadWeights, match=r"resnet50-0676ba61\.pth.*--encoder-weights"):
        find_weights("resnet50", None)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_development_weights_fit_their_rows(shared: Path, name: str) -> None:
    weights = read_weights(shared / "encoders" / f"{name}_imagenet_layer3.safetensors")
    assert load_backbone(name, chosen_layers(name, ()), weights.tensors).state_dict()
