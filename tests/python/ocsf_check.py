"""Checks lines of OCSF events, on standard input, against the published schema of OCSF 1.8.

Prints what is wrong, a line each, and ends with 1 when anything is, or when there was no event.
"""

import json
import sys

from jsonschema import Draft202012Validator
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

VERSION = "1.8.0"


def main() -> int:
    schema = OcsfJsonSchemaEmbedded(get_ocsf_schema(version=VERSION))
    validators = {}
    events = wrong = 0
    for number, line in enumerate(sys.stdin, 1):
        event = json.loads(line)
        events += 1
        if event["metadata"]["version"] != VERSION:
            print(f"line {number}: version {event['metadata']['version']}")
            wrong += 1
        profiles = tuple(event["metadata"].get("profiles", []))
        key = (event["class_uid"], profiles)
        if key not in validators:
            name = schema.lookup_class_name_from_uid(event["class_uid"])
            validators[key] = Draft202012Validator(schema.get_class_schema(name, profiles=list(profiles)))
        for error in validators[key].iter_errors(event):
            where = "/".join(str(part) for part in error.absolute_path)
            print(f"line {number}: {where}: {error.message[:300]}")
            wrong += 1
    print(f"{events} events, {wrong} mistakes")
    return 1 if wrong or not events else 0


sys.exit(main())
