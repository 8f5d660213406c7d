"""The CloudFormation templates as plain data, and a model of deploying them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from cfnlint.decode import decode

AWS = Path(__file__).parent.parent.parent / "deploy/aws"

_PSEUDO = {
    "AWS::Partition": "aws",
    "AWS::Region": "eu-west-2",
    "AWS::AccountId": "123456789012",
}
_NOTHING = object()


@cache
def template(name: str) -> Any:
    """A template, its short functions (`!Ref`) as the long ones."""
    decoded, problems = decode(str(AWS / f"{name}.yaml"))
    assert not problems, problems
    return decoded


class Refused(Exception):
    """CloudFormation would not do this."""


@dataclass
class Account:
    """Deploys templates by those of AWS's rules that no emulator keeps.

    An export that another stack imports cannot change or go. A job definition whose properties
    change gets a new revision, and the one before goes out of service; its ARN holds the revision,
    and its name stands for the newest. Everything else keeps its name for as long as it is there.
    """

    exports: dict[str, str] = field(default_factory=dict)
    imports: dict[str, set[str]] = field(default_factory=dict)
    revisions: dict[str, list[Any]] = field(default_factory=dict)

    def deploy(self, stack: str, name: str, **parameters: str) -> dict[str, Any]:
        """Creates or updates a stack from the template `name`; the properties of its resources."""
        scope = _Scope(self, stack, template(name), parameters)
        resources = {
            logical: scope.value(resource.get("Properties", {}))
            for logical, resource in scope.template["Resources"].items()
            if "Condition" not in resource or scope.holds(resource["Condition"])
        }
        exported = {
            scope.value(output["Export"]["Name"]): scope.value(output["Value"])
            for output in scope.template.get("Outputs", {}).values()
            if "Export" in output
        }
        for export, value in self.exports.items():
            used = self.imports.get(export, set()) - {stack}
            if export.startswith(f"{stack}-") and used and exported.get(export) != value:
                raise Refused(f"{export} is in use by {sorted(used)}")
        self.exports |= exported
        return resources

    def job(self, definition: str) -> Any:
        """The properties of the job definition that a name or an ARN stands for."""
        name, _, revision = definition.rpartition("/")[2].partition(":")
        if revision and int(revision) != len(self.revisions[name]):
            raise Refused(f"{definition} is out of service")
        return self.revisions[name][-1]

    def registered(self, name: str, properties: Any) -> str:
        """The ARN of a job definition with these properties, in a new revision if they are new."""
        revisions = self.revisions.setdefault(name, [])
        if not revisions or revisions[-1] != properties:
            revisions.append(properties)
        return f"arn:aws:batch:eu-west-2:123456789012:job-definition/{name}:{len(revisions)}"


class _Scope:
    """The names that a template's functions may refer to, and what they stand for."""

    def __init__(
        self, account: Account, stack: str, body: Any, parameters: Mapping[str, str]
    ) -> None:
        self.account, self.stack, self.template = account, stack, body
        known = body.get("Parameters", {})
        if parameters.keys() - known.keys():
            raise Refused(f"unknown parameters {sorted(parameters.keys() - known.keys())}")
        self.names: dict[str, Any] = {**_PSEUDO, "AWS::StackName": stack, "AWS::NoValue": _NOTHING}
        for name, parameter in known.items():
            if name not in parameters and "Default" not in parameter:
                raise Refused(f"{name} has no value")
            value = str(parameters.get(name, parameter.get("Default")))
            is_list = "List" in parameter["Type"]
            self.names[name] = value.split(",") if is_list else value
        for name, resource in body["Resources"].items():
            if resource["Type"] == "AWS::Batch::JobDefinition":
                properties = self.value(resource["Properties"])
                self.names[name] = account.registered(properties["JobDefinitionName"], properties)

    def holds(self, condition: str) -> bool:
        return bool(self.value(self.template["Conditions"][condition]))

    def value(self, item: Any) -> Any:
        """A part of the template with its functions carried out."""
        if isinstance(item, list):
            found = [self.value(inner) for inner in item]
            return [inner for inner in found if inner is not _NOTHING]
        if not isinstance(item, dict):
            return item
        if len(item) == 1:
            ((function, argument),) = item.items()
            if function == "Condition" and isinstance(argument, str):
                return self.holds(argument)
            if function == "Ref" or function.startswith("Fn::"):
                name = function.removeprefix("Fn::").lower()
                return getattr(self, f"_{name}")(argument)
        found_items = {key: self.value(inner) for key, inner in item.items()}
        return {key: inner for key, inner in found_items.items() if inner is not _NOTHING}

    def _ref(self, name: str) -> Any:
        if name in self.names:
            return self.names[name]
        assert name in self.template["Resources"], name
        return f"{self.stack}-{name}"

    def _getatt(self, path: list[str] | str) -> str:
        name, attribute = path.split(".", 1) if isinstance(path, str) else path
        assert name in self.template["Resources"], name
        return f"{self.stack}-{name}.{attribute}"

    def _sub(self, argument: str | list[Any]) -> str:
        text, given = (argument, {}) if isinstance(argument, str) else argument
        values = {name: self.value(value) for name, value in given.items()}

        def one(match: re.Match[str]) -> str:
            name = match[1]
            if name in values:
                return str(values[name])
            return str(self._getatt(name) if "." in name else self._ref(name))

        return re.sub(r"\$\{([\w:.]+)\}", one, text)

    def _split(self, argument: list[Any]) -> list[str]:
        return str(self.value(argument[1])).split(argument[0])

    def _select(self, argument: list[Any]) -> Any:
        return self.value(argument[1])[int(argument[0])]

    def _and(self, argument: list[Any]) -> bool:
        return all(self.value(item) for item in argument)

    def _importvalue(self, name: Any) -> str:
        export = self.value(name)
        if export not in self.account.exports:
            raise Refused(f"nothing exports {export}")
        self.account.imports.setdefault(export, set()).add(self.stack)
        return self.account.exports[export]

    def _if(self, argument: list[Any]) -> Any:
        condition, yes, no = argument
        return self.value(yes if self.holds(condition) else no)

    def _equals(self, argument: list[Any]) -> bool:
        one, other = (str(self.value(item)) for item in argument)
        return one == other

    def _not(self, argument: list[Any]) -> bool:
        return not self.value(argument[0])

    def _join(self, argument: list[Any]) -> str:
        return str(argument[0]).join(self.value(argument[1]))

    def _findinmap(self, argument: list[Any]) -> Any:
        name, first, second = (self.value(item) for item in argument)
        return self.template["Mappings"][name][first][second]
