"""What a run is asked to do."""

from coalesce.settings import Settings


def settings(**more: object) -> Settings:
    """A run over everything under `data/` in the bucket `b`, however young."""
    return Settings.model_validate({"bucket": "b", "prefix": ["data"], "min_age": 0, **more})
