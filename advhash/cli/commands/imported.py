"""`advhash import`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from advhash.cli.options import Json
from advhash.cli.terminal import tell


def import_model(
    file: Annotated[
        Path, typer.Argument(help="What torch.save wrote (state_dict or model), or safetensors.")
    ],
    name: Annotated[Path, typer.Option("--as", help="The new checkpoint folder: its --victim.")],
    architecture: Annotated[
        str | None,
        typer.Option(
            "--arch",
            help="alexnet, vgg11 to vgg19_bn, torchvision:NAME or timm:NAME. (default: by names)",
        ),
    ] = None,
    normalise: Annotated[
        str | None,
        typer.Option(
            "--normalise", help="What pixels in [0,1] went through: imagenet, half or none."
        ),
    ] = None,
    part: Annotated[
        str | None, typer.Option("--part", help="Which model of several in the file.")
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option("--scale", help="Factor in tanh(scale·z). (default: the file's, else 1)"),
    ] = None,
    image_size: Annotated[
        int, typer.Option("--image-size", help="Pixels a side that the network is fed.")
    ] = 224,
    pictures: Annotated[
        Path | None,
        typer.Option("--pictures", help="A folder of pictures to try it on. (default: digits)"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a victim of somebody else's weights. Nothing in the file runs, pickled or not."""
    from advhash.cli.console import print_json
    from advhash.experiments.prepare.imported import import_checkpoint

    document = import_checkpoint(
        file,
        name,
        architecture=architecture,
        normalise=normalise,
        part=part,
        scale=scale,
        image_size=image_size,
        pictures=pictures,
    )
    if as_json:
        print_json(document)
    else:
        print_import(document)


def print_import(document: Mapping[str, Any]) -> None:
    """What was recognised, how it was tried, and where it is."""
    from advhash.experiments.prepare.imported import trial_text

    settings = document["victim"]["settings"]
    tell(
        f"{settings['architecture']}, {settings['bits']} bits, {document['tensors']} tensors by "
        f"the names of {document['source']['layout']}"
    )
    if document["not_called"]:
        tell(f"named in the file, not called: {', '.join(document['not_called'])}")
    tell(f"normalise {settings['normalise']}, scale {settings['scale']:g}")
    tell(f"tried: {trial_text(document['trial'])}")
    tell(f"checkpoint: {document['checkpoint']}")
