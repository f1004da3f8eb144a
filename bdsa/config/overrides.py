"""NAME=VALUE of a command line, checked before Hydra composes: its own messages do not say what was meant."""
from __future__ import annotations

from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from bdsa.config.names import WEIGHT_SUFFIXES
from bdsa.config.pipeline import STAGE_SETTINGS
from bdsa.config.schema import setting_names, unknown_setting
from bdsa.errors import UserError, nearest, unknown

# Below these any name is allowed: another library checks them, or the pipeline.
FREE = ("model.args.", *STAGE_SETTINGS)


def expand(argument: str, options: dict[str, list[str]]) -> list[str]:
    """`model=NAME` and `teacher=NAME or FILE` for any model, not only those with a file under conf/."""
    group, _, value = argument.partition("=")
    if group.startswith(STAGE_SETTINGS):
        return [f"++{argument}"]  # they are there only once they are set
    if group not in ("model", "teacher") or group not in options or not value:
        return [argument]
    if all(v in options[group] for v in value.split(",")):
        return [argument]
    if group == "model":
        return [f"model.name={value}"]
    if Path(value).suffix in WEIGHT_SUFFIXES:
        return ["teacher=checkpoint", f"teacher.weights={value}"]
    return [argument] if nearest(value, options[group]) or "," in value else ["teacher=model", f"teacher.name={value}"]


def check_overrides(overrides: list[str], schema: type, options: dict[str, list[str]]) -> None:
    """Raise UserError for the first override that names no setting, group or option."""
    known = set(setting_names(schema))
    sections = {k.rpartition(".")[0] for k in known} - {""}
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except HydraException as error:
        raise UserError(f"cannot read the command line: {str(error).splitlines()[0]}") from error
    for override in parsed:
        name = override.key_or_group
        if name.startswith("hydra") or override.is_delete():
            continue
        if name in options:
            values = getattr(override.value(), "list", []) if override.is_sweep_override() else [override.value()]
            if any(isinstance(v, (list, float, int)) for v in values):
                hint = f": write {override.input_line.replace('=', '.targets=', 1)}" if name == "budgets" else ""
                raise UserError(f"{override.input_line} is no option of {name} ({', '.join(options[name])}){hint}")
            for value in (v for v in values if isinstance(v, str)):
                if value not in options[name]:
                    raise unknown(f"option of {name}", value, options[name])
        elif name in sections and not isinstance(override.value(), dict):
            raise UserError(f"{override.input_line}: {name} is a section, set its values: "
                            f"{', '.join(k for k in sorted(known) if k.startswith(name + '.'))}")
        elif name not in known | sections and not name.startswith(FREE):
            raise unknown_setting(name, schema)
