"""timm, imported without torch's compiler, which is there as soon as somebody calls it."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys, torch
disable = torch.compiler.disable
from advhash.victims.networks.library import timm
network = timm().create_model("test_resnet", num_classes=0)
assert network(torch.zeros(2, 3, 32, 32)).shape == (2, network.num_features)
assert not [name for name in sys.modules if name.startswith("torch._dynamo")]
assert torch.compiler.disable is disable

supported = sys.modules["torchvision.ops.roi_align"].is_compile_supported
assert supported("cpu") in (True, False)
assert supported.__globals__["__name__"] == "advhash.victims.networks.library"
from torch._dynamo.utils import is_compile_supported
assert supported("cpu") is is_compile_supported("cpu")
assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)) == 2
decorated = sys.modules["timm.layers.typing"].disable_compiler(lambda x: 3 * x)
assert decorated(2) == 6
"""


def test_the_compiler_waits_until_it_is_called() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_whatever_else_is_asked_of_the_compiler_is_its_own() -> None:
    program = (
        "import sys\n"
        "from advhash.victims.networks.library import _without_compiler\n"
        "with _without_compiler():\n"
        "    from torch._dynamo.utils import counters\n"
        "    import torch._dynamo\n"
        "    assert counters is torch._dynamo.utils.counters\n"
        "assert sys.modules['torch._dynamo.utils'] is torch._dynamo.utils\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
