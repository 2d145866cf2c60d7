"""How far a run is kept from the rest of the machine, in tiers."""

import enum
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from executions.engines.registry import Engine


class Tier(enum.Enum):
    USER = "user"
    LANDLOCK = "landlock"
    NONE = "none"


class Slots:
    def __init__(self, tier: Tier) -> None: ...
    def take(self) -> int | None:
        return None

    def give_back(self, uid: int | None) -> None: ...


@dataclass(frozen=True)
class Need:
    @classmethod
    def of(cls, engine: Engine, adapter: ModuleType, work: Path, gateway: str, uid: int | None) -> "Need":
        return cls()


def best_tier(adapter: Path, run_dir: Path) -> Tier:
    return Tier.NONE


def enter(tier: Tier, need: Need) -> None: ...
