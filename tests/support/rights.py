"""What a policy of IAM allows, for the conditions that stand in our templates."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

Statement = dict[str, Any]


def allows(
    statements: Iterable[Statement], action: str, resource: str, **context: str | list[str]
) -> bool:
    """Whether a request is allowed: some statement allows it, and none denies it.

    Args:
        statements: those of all policies of a role.
        action: such as `s3:GetObject`; case does not count, as in IAM.
        resource: an ARN.
        context: values of condition keys, with `__` for the colon: `aws__CalledVia`.
    """
    known = {name.replace("__", ":"): value for name, value in context.items()}
    effects = {
        statement["Effect"]
        for statement in statements
        if _matches(statement["Action"], action.lower(), lower=True)
        and _matches(statement["Resource"], resource)
        and all(
            _holds(operator, key, wanted, known)
            for operator, keys in statement.get("Condition", {}).items()
            for key, wanted in keys.items()
        )
    }
    return effects == {"Allow"}


def listed(item: Any) -> list[Any]:
    """A list as it is; anything else as a list of one."""
    return item if isinstance(item, list) else [item]


def actions(statements: Iterable[Statement]) -> set[str]:
    """Every action that statements name."""
    return {action for statement in statements for action in listed(statement["Action"])}


def of_role(resources: Mapping[str, Any], logical: str) -> dict[str, list[Statement]]:
    """The statements of a role of a deployed template, by the names of its policies."""
    own = {
        policy["PolicyName"]: policy["PolicyDocument"]["Statement"]
        for policy in resources[logical].get("Policies", ())
    }
    attached = {
        properties["PolicyName"]: properties["PolicyDocument"]["Statement"]
        for properties in resources.values()
        if any(role.endswith(f"-{logical}") for role in properties.get("Roles", ()))
    }
    return own | attached


def _matches(patterns: Any, text: str, *, lower: bool = False) -> bool:
    for pattern in listed(patterns):
        plain = pattern.lower() if lower else pattern
        if re.fullmatch(re.escape(plain).replace(r"\*", ".*"), text):
            return True
    return False


def _holds(operator: str, key: str, wanted: Any, context: Mapping[str, Any]) -> bool:
    values = {str(value) for value in listed(wanted)}
    match operator:
        case "StringEquals" | "Bool":
            return str(context.get(key)) in values
        case "ForAnyValue:StringEquals":
            return bool(values & set(listed(context.get(key, []))))
        case "StringLikeIfExists":
            return key not in context or _matches(list(values), str(context[key]))
    raise NotImplementedError(operator)
