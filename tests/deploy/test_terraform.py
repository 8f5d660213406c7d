"""The Terraform module: formatted, every name known to the AWS provider, every reference defined,
and the same in content as the CloudFormation templates.
"""

import ast
import importlib.util
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from coalesce.settings import parse_size
from support.cloudformation import template

MODULE = Path(__file__).parent.parent.parent / "deploy/aws/terraform"
FILES = sorted(MODULE.glob("*.tf"))
TEMPLATES = MODULE.parent

terraform = shutil.which("terraform") or shutil.which("tofu")
needs_terraform = pytest.mark.skipif(
    terraform is None, reason="needs terraform or tofu on the PATH"
)
META = {"for_each", "count", "depends_on", "provider", "lifecycle", "dynamic"}


@cache
def blocks(kind: str) -> list[tuple[str, str, dict[str, Any]]]:
    """(type, name, body) of each resource or data block."""
    hcl2 = pytest.importorskip("hcl2", reason="needs python-hcl2: make test-deploy")
    found = []
    for path in FILES:
        for entry in hcl2.loads(path.read_text()).get(kind, ()):
            for type_, named in _items(entry):
                found += [(type_, name, body) for name, body in _items(named)]
    return found


def _items(body: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(key.strip('"'), value) for key, value in body.items() if not key.startswith("__")]


@cache
def schema(type_: str, kind: str) -> dict[str, dict[str, tuple[bool, str]]]:
    """Of each class that describes a resource or its blocks: name → (whether it is required,
    annotation). From the provider's published bindings.
    """
    spec = importlib.util.find_spec("cdktf_cdktf_provider_aws")
    if spec is None or spec.origin is None:
        pytest.skip("needs cdktf-cdktf-provider-aws: make test-deploy")
    module = ("data_" if kind == "data" else "") + type_
    source = Path(spec.origin).parent / module.removeprefix("aws_") / "__init__.py"
    assert source.exists(), f"the provider has no {kind} {type_}"
    classes = {}
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, ast.ClassDef):
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                    names = zip(method.args.kwonlyargs, method.args.kw_defaults, strict=True)
                    classes[node.name] = {
                        a.arg.removesuffix("_"): (
                            default is None,
                            ast.unparse(a.annotation or ast.Constant("")),
                        )
                        for a, default in names
                    }
    return classes


def check(
    where: str,
    body: dict[str, Any],
    names: dict[str, tuple[bool, str]],
    classes: dict[str, dict[str, tuple[bool, str]]],
) -> None:
    """Every name of a block is known, every required one is there, and so in the blocks inside
    it.
    """
    given = dict(_items(body))
    for dynamic in given.pop("dynamic", ()):
        given |= {name: block["content"] for name, block in _items(dynamic)}
    for name in META:
        given.pop(name, None)
    assert not given.keys() - names.keys(), f"{where}: unknown {given.keys() - names.keys()}"
    required = {name for name, (needed, _) in names.items() if needed} - {"scope", "id_"}
    assert not required - given.keys(), f"{where}: missing {required - given.keys()}"
    for name, value in given.items():
        if (
            isinstance(value, list)
            and value
            and isinstance(value[0], dict)
            and "__is_block__" in value[0]
        ):
            inner = next(found for found in re.findall(r"\w+", names[name][1]) if found in classes)
            for part in value:
                check(f"{where}.{name}", part, classes[inner], classes)


@pytest.mark.parametrize("kind", ["resource", "data"])
def test_the_provider_knows_every_name(kind: str) -> None:
    """Terraform would say so in `validate`, which needs the provider's binary; these are the
    bindings generated from the same schema.
    """
    for type_, name, body in blocks(kind):
        classes = schema(type_, kind)
        config = next(
            names
            for known, names in classes.items()
            if known.endswith("Config") and "for_each" in names
        )
        check(f"{type_}.{name}", body, config, classes)
    assert blocks(kind)


def test_every_reference_is_defined() -> None:
    text = "\n".join(path.read_text() for path in FILES)
    defined = {f"var.{name}" for name in re.findall(r'^variable "(\w+)"', text, re.MULTILINE)}
    defined |= {f"{type_}.{name}" for type_, name, _ in blocks("resource")} | {
        f"data.{type_}.{name}" for type_, name, _ in blocks("data")
    }
    local = re.search(r"^locals \{(.*?)^\}", text, re.MULTILINE | re.DOTALL)
    assert local is not None
    defined |= {f"local.{name}" for name in re.findall(r"^  (\w+) +=", local[1], re.MULTILINE)}
    used = set(
        re.findall(r"(?<![\w.])(?:(?:var|local)\.\w+|data\.aws_\w+\.\w+|aws_\w+\.\w+)", text)
    )
    assert used - defined == set()
    assert {name for name in defined if name.startswith(("var.", "local."))} - used == set()


@needs_terraform
def test_it_is_formatted() -> None:
    assert terraform is not None
    assert (
        subprocess.run(
            [terraform, "fmt", "-check", "-recursive", str(MODULE)],
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        == ""
    )


LOCATION = {"bucket": "b", "prefix": "p"}
GIVEN = {
    "image": "i:1",
    "vpc_id": "v",
    "subnet_ids": ["s"],
    "alarm_topic_arn": "arn:aws:sns:r:1:t",
    "locations": {"main": LOCATION},
}


@needs_terraform
@pytest.mark.parametrize(
    ("given", "refused"),
    [
        ({}, ""),
        ({"size": {"vcpu": 16, "memory": 65536}}, ""),
        ({"size": {"vcpu": 1, "memory": 16384}}, "does not offer this memory"),
        ({"size": {"vcpu": 3, "memory": 4096}}, "does not offer this memory"),
        ({"compute_type": "EC2"}, "FARGATE or FARGATE_SPOT"),
        ({"locations": {"main": LOCATION | {"layout": "parquet"}}}, "storage or manifests"),
        ({"locations": {"main": LOCATION | {"shards": 10001}}}, "array job"),
    ],
)
def test_variables_refuse_what_fargate_and_batch_would(
    given: dict[str, object], refused: str, tmp_path: Path
) -> None:
    """The real terraform, on the variables alone: they need no provider."""
    assert terraform is not None
    shutil.copy(MODULE / "variables.tf", tmp_path)
    (tmp_path / "terraform.tfvars.json").write_text(json.dumps(GIVEN | given))
    done = subprocess.run(
        [terraform, f"-chdir={tmp_path}", "plan", "-no-color", "-input=false"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode == 0) == (not refused), done.stderr
    assert refused in " ".join(done.stderr.replace("│", " ").split())


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from (str(key), *strings(inner))
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)
    else:
        yield str(value)


def in_hcl(text: str) -> str:
    """A text of a template as it stands in the module."""
    for name, value in (("Bucket", "bucket"), ("Prefix", "prefix"), ("Shards", "shards")):
        text = text.replace(f"${{{name}}}", f"${{each.value.{value}}}")
    return text


ALARMS = {
    "undelivered": ("batch", "Undelivered"),
    "no_good_night": ("location", "NoGoodNight"),
    "long_path_list": ("location", "LongPathList"),
    "unsettled": ("location", "Unsettled"),
}


SAME = (
    "AlarmDescription",
    "Namespace",
    "MetricName",
    "Statistic",
    "Stat",
    "Expression",
    "Period",
    "EvaluationPeriods",
    "ComparisonOperator",
    "Threshold",
    "TreatMissingData",
)


@pytest.mark.parametrize("name", ALARMS)
def test_its_alarms_are_those_of_the_templates(name: str) -> None:
    stack, logical = ALARMS[name]
    said = template(stack)["Resources"][logical]
    found = {name: body for _, name, body in blocks("resource") if "alarm_actions" in body}
    assert found.keys() == ALARMS.keys()
    body = json.dumps(found[name])
    assert ("local.watched" in body) == (said.get("Condition") == "Scheduled")
    properties = said["Properties"]
    looked_at = properties.get("Metrics") or [properties]
    for part in (properties, *looked_at, looked_at[-1].get("MetricStat", {})):
        for key, value in part.items():
            if key in SAME:
                text = (
                    value.get("Fn::Sub", "each.value.shards") if isinstance(value, dict) else value
                )
                assert in_hcl(str(text)) in body, key
    assert '"local.dimensions' in body.replace("${", "") or stack == "batch"
    location = re.search(r"Location = \"(.*?)\"", (MODULE / "main.tf").read_text())
    assert location is not None
    assert location[1].replace("location.", "each.value.") == in_hcl("s3://${Bucket}/${Prefix}/")


def test_it_says_what_the_cloudformation_templates_say() -> None:
    """Exit codes, attempts, time-outs, rights, conditions, the command and the schedule."""
    batch, location, bucket = (
        template(name)["Resources"] for name in ("batch", "location", "bucket")
    )
    text = "\n".join(path.read_text() for path in FILES)
    job = location["Job"]["Properties"]
    retry = location["Nightly"]["Properties"]["Targets"][0]["RetryPolicy"]
    said = {
        "codes": json.dumps(
            [rule["OnExitCode"] for rule in job["RetryStrategy"]["EvaluateOnExit"]]
        ),
        "attempts": f"= {job['RetryStrategy']['Attempts']}\n",
        "timeout": f"= {job['Timeout']['AttemptDurationSeconds']}\n",
        "deadline": f'= "{job["Parameters"]["deadline"]}"\n',
        "user": job["ContainerProperties"]["User"],
        "schedule": template("location")["Parameters"]["Schedule"]["Default"],
        "age": f"maximum_event_age_in_seconds = {retry['MaximumEventAgeInSeconds']}\n",
        "kept": f"= {batch['DeadLetters']['Properties']['MessageRetentionPeriod']}\n",
    }
    for rule in ("Failed", "ArrayFailed"):
        transformer = batch[rule]["Properties"]["Targets"][0]["InputTransformer"]
        said[rule] = f'"{transformer["InputTemplate"].strip(chr(34))}"'
        said |= {path: f'"{path}"' for path in transformer["InputPathsMap"].values()}
    assert {name: value for name, value in said.items() if value not in text} == {}
    begin = text.index("command = concat(")
    command = re.findall(
        r'"((?:Ref::)?-{0,2}[\w:-]+)"', text[begin : text.index("resource", begin)]
    )
    words = [word for word in job["ContainerProperties"]["Command"] if isinstance(word, str)]
    assert command == words
    parameters = re.search(r"  parameters = \{(.*?)\}", text, re.DOTALL)
    assert parameters is not None
    assert {line.split()[0].strip('"') for line in parameters[1].strip().splitlines()} == job[
        "Parameters"
    ].keys()
    rights = location["Rights"]["Properties"]["PolicyDocument"]
    conditional = bucket["BucketPolicy"]["Properties"]["PolicyDocument"]["Statement"][:3]
    for word in strings([rights, conditional]):
        if re.fullmatch(r"(s3|kms|batch):[\w-]+|StringLike\w*|Null|Bool|Job\w+Only", word):
            assert f'"{word}"' in text, word


def test_a_second_image_rolls_out() -> None:
    """A schedule names its definition without a revision."""
    (target,) = [
        body
        for type_, name, body in blocks("resource")
        if (type_, name) == ("aws_cloudwatch_event_target", "nightly")
    ]
    definition = target["batch_target"][0]["job_definition"]
    assert definition == "${aws_batch_job_definition.this[each.key].arn_prefix}"


def test_memory_in_flight_is_what_the_template_says() -> None:
    """An eighth."""
    for memory, row in template("location")["Mappings"]["InFlight"].items():
        assert parse_size(row["Memory"]) == int(memory) // 8 * 1024**2
    assert '"${var.size.memory / 8}MiB"' in (MODULE / "main.tf").read_text()
