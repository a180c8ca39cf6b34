"""Option files: one typed schema that feeds validation, explanations, the JSON Schema and the documentation.

Importing this package imports neither torch nor basicsr; `load_options` does, to look type names and keywords up.
"""

from __future__ import annotations

from kdsr_arch.options.documents import read_parts
from kdsr_arch.options.explain import explain, json_schema
from kdsr_arch.options.load import complete, load_options, project_root
from kdsr_arch.options.schema import Options
from kdsr_arch.options.yaml_reader import load_yaml, parse_value

__all__ = [
    "Options", "complete", "explain", "json_schema", "load_options", "load_yaml", "parse_value",
    "project_root", "read_parts",
]  # fmt: skip
