"""The JSON schema of a record, kept in `record.schema.json`. Renew it with: python -m picolab.record.schema"""

import json
from pathlib import Path
from typing import Any

from picolab.record.record import Record

SCHEMA_PATH = Path(__file__).with_name("record.schema.json")


def record_schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of the models above."""
    schema = Record.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def write_schema() -> None:
    """Renew `record.schema.json` after a change of the models."""
    SCHEMA_PATH.write_text(json.dumps(record_schema(), indent=1) + "\n")


if __name__ == "__main__":
    write_schema()
