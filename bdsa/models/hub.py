"""Networks on the Hugging Face Hub: a folder with the weights, what they are, and a card for people; to and fro.

    bdsa.push_to_hub(model, "owner/name", license="mit", results=results)
    model = bdsa.load("hf-hub:owner/name")

A repository holds `model.safetensors` (what `bdsa.save` writes), `config.json` and `README.md`. Opening one runs no
code of it.
"""
from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

from torch import nn

from bdsa.errors import UserError, first_line
from bdsa.models.feature_network import FeatureNetwork
from bdsa.models.fetching import NAME, PREFIX, WEIGHTS
from bdsa.models.measuring import network_in
from bdsa.models.weights_file import architecture, save
from bdsa.runs.files import replacing

CONFIG, CARD = "config.json", "README.md"  # beside the weights


def save_for_hub(model: nn.Module, folder: str | Path, *, title: str | None = None, license: str | None = None,
                 **known: Any) -> Path:
    """Write the folder that a repository of the Hub is: weights, config and model card.

    Args:
        model: an adaptive network, or a module that holds one.
        folder: where; it is made. `bdsa.load(folder)` reads it.
        title: of the card; the architecture's name where it is None.
        license: an identifier of the Hub, such as "mit" or "bsd-2-clause".
        known: as in `bdsa.save`: classes, results, image_size, attribution, name, args. A table of the card is made of
            `results["rows"]`, as results.json has them.

    Raises:
        UserError: as `bdsa.save`, and for a licence that is no identifier.
    """
    if license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
        raise UserError(f"license '{license}' is no identifier of the Hub, such as mit, apache-2.0 or bsd-2-clause")
    folder, network = Path(folder), network_in(model)
    save(model, folder / WEIGHTS, **known)
    name = known.get("name") or (network.made_with or {}).get("name") or architecture(network) or "network"
    stated = {"library_name": "bdsa", "architecture": name, "num_classes": int(getattr(network, "num_classes", 0)),
              "budgets": network.budgets.plain(), "image_size": known.get("image_size"),
              "label_names": None if known.get("classes") is None else list(known["classes"]), "license": license}
    if isinstance(model, FeatureNetwork):
        stated["out_indices"] = list(model.out_indices)
    with replacing(folder / CONFIG) as file:
        file.write((json.dumps({k: v for k, v in stated.items() if v is not None}, indent=2) + "\n").encode())
    with replacing(folder / CARD) as file:
        file.write(card(stated, title or name, known.get("results") or {}, known.get("attribution")).encode())
    return folder


def push_to_hub(model: nn.Module, repository: str, *, private: bool = False, token: str | None = None,
                message: str = "Add the network", **known: Any) -> str:
    """Put a network on the Hugging Face Hub.

    Args:
        model: an adaptive network, or a module that holds one.
        repository: "owner/name"; it is made where there is none.
        private, token, message: as huggingface_hub has them; None: the token that you logged in with.
        known: as in `save_for_hub`.

    Returns:
        The repository's address.

    Raises:
        UserError: as `save_for_hub`, and where the Hub does not take it.
    """
    if not re.fullmatch(NAME, repository):
        raise UserError(f"repository '{repository}' is not OWNER/NAME")
    import huggingface_hub  # timm brings it

    with tempfile.TemporaryDirectory() as folder:
        save_for_hub(model, folder, title=known.pop("title", repository.partition("/")[2]), **known)
        try:
            api = huggingface_hub.HfApi(token=token)
            api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message)
        except Exception as error:  # the client has no common base for all that can go wrong
            raise UserError(f"{repository} cannot be put on the Hub: {first_line(error)}") from error
    return f"https://huggingface.co/{repository}"


def card(stated: dict[str, Any], title: str, results: dict[str, Any], attribution: str | None) -> str:
    """The text of a model card: what other readers look for on top, then the table, how it is used, whose it is."""
    maps = "out_indices" in stated
    budgets = ", ".join(f"{b:g}" for b in stated["budgets"])
    task = "image-feature-extraction" if maps else "image-classification"
    front = ["---", "library_name: bdsa", f"pipeline_tag: {task}", "tags:", "- bdsa", "- adaptive-inference",
             f"- {stated['architecture']}"]
    front += [f"license: {stated['license']}"] if stated.get("license") else []
    lines = [*front, "---", "", f"# {title}", "",
             f"A {stated['architecture']} that computes where the image needs it, for budgets of {budgets} and 1 "
             f"(dense): the fraction of the conditional MACs that may run.", ""]
    rows, dense = results.get("rows") or [], results.get("dense_macs")
    if rows:
        lines += ["| budget | top-1 | conditional fraction | share of the dense MACs |", "|---|---|---|---|"]
        lines += [f"| {row['budget']:g} | {row['top1']:.2f} % | {row['conditional_fraction']:.3f} | "
                  f"{share(row, dense)} |" for row in rows] + [""]
    call = "maps = model(images, budget=" if maps else "logits = model(images, budget="
    lines += ["```python", "import bdsa", "", f'model = bdsa.load("{PREFIX}OWNER/NAME")',
              f"{call}{stated['budgets'][0]:g})", "```", ""]
    if stated.get("image_size"):
        lines += [f"Image size of the training: {stated['image_size']}.", ""]
    lines += [f"Weights: {attribution}.", ""] if attribution else []
    return "\n".join(lines)


def share(row: dict[str, Any], dense: int | None) -> str:
    """A row's MACs as a share of the dense network's, where these are known."""
    return f"{100 * row['macs'] / dense:.1f} %" if dense and "macs" in row else ""
