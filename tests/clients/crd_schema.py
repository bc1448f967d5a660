"""usage: crd_schema.py CRD.yaml VERSION

Prints the JSON schema of one version of a Kubernetes custom resource. It refuses fields that it does
not name: the API server would only drop them, and a misspelt one with them.
"""

import json
import sys

import yaml


def strict(schema):
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: strict(value) for key, value in schema.items()}
    # A field may itself be called "properties": then its schema is an object, not a map of them.
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
    return schema


def main():
    path, version = sys.argv[1:]
    with open(path, encoding="utf-8") as file:
        crd = yaml.safe_load(file)
    (served,) = [v for v in crd["spec"]["versions"] if v["name"] == version]
    schema = strict(served["schema"]["openAPIV3Schema"])
    # The API server knows these; the CRD leaves them open.
    schema["properties"]["apiVersion"]["const"] = f"{crd['spec']['group']}/{version}"
    schema["properties"]["kind"]["const"] = crd["spec"]["names"]["kind"]
    schema["properties"]["metadata"].pop("additionalProperties", None)
    json.dump(schema, sys.stdout, indent=1)


main()
