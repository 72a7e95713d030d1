"""The operator's settings, from environment variables `FINETUNE_OPERATOR_…`; the chart's values become these.

Built once at the start and passed down, never read at import.
"""

import os
from collections.abc import Mapping

from pydantic import ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as SourceError

from finetune_core.settings import OperatorSettings
from finetune_operator.errors import SettingsError

_PREFIX = "FINETUNE_OPERATOR_"


class _Variables(OperatorSettings, BaseSettings):
    """The same fields as environment variables."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX)


def load(environ: Mapping[str, str] = os.environ) -> OperatorSettings:
    """The settings in these variables. Raises SettingsError for an unknown or wrong one."""
    known = {f"{_PREFIX}{name}".upper() for name in OperatorSettings.model_fields}
    unknown = sorted(
        name for name in environ if name.upper().startswith(_PREFIX) and name.upper() not in known
    )
    if unknown:
        raise SettingsError(f"unknown variable {unknown[0]}; known are {', '.join(sorted(known))}")
    source = EnvSettingsSource(_Variables)
    source.env_vars = {name.lower(): value for name, value in environ.items()}
    try:
        return OperatorSettings(**source())
    except ValidationError as error:
        first = error.errors()[0]
        name = f"{_PREFIX}{first['loc'][0]}".upper()
        raise SettingsError(f"{name}: {first['msg']}") from error
    except SourceError as error:
        # the field is named in the text only: 'error parsing value for field "x" from …'
        field = str(error).partition('"')[2].partition('"')[0]
        raise SettingsError(f"{_PREFIX}{field}".upper() + f": is not JSON: {error.__cause__}") from error
