"""A scenario: one YAML file, one question, an ordered set of variants, each validated before time
zero."""

from sim.scenario.errors import MisfitError, refuse
from sim.scenario.load import Kinds, Overrides, Scenario, Source, find_scenario, load
from sim.scenario.schema import Variant, json_schema
from sim.text.strict_yaml import Fault, ScenarioError

__all__ = [
    "Fault",
    "Kinds",
    "MisfitError",
    "Overrides",
    "Scenario",
    "ScenarioError",
    "Source",
    "Variant",
    "find_scenario",
    "json_schema",
    "load",
    "refuse",
]
