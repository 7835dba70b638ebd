"""One thread a process, set before torch is imported: two torch threads on a busy machine are tens of times slower."""

import os
import shutil
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@pytest.fixture(scope="session")
def _empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    SqlAlchemyStore(f"sqlite:///{path}", str(path.parent / "artifacts"))
    return path


@pytest.fixture
def tables(_empty_store: Path, tmp_path: Path) -> None:
    """An MLflow store in the test's folder that has its tables already: making them takes seconds."""
    shutil.copyfile(_empty_store, tmp_path / "mlflow.db")
