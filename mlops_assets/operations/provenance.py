"""Which code and which libraries made a model."""

import hashlib
import importlib.metadata
import subprocess
from functools import cache
from pathlib import Path

import mlops_assets

_LIBRARIES = ("dagster", "mlflow", "numpy", "pandas", "scikit-learn", "scipy", "skops")


@cache
def code_version() -> str:
    """`<version>+g<commit>` in a clean git checkout, `…+g<commit>.dirty-<hash>` in a changed one, else `<version>+s<hash>`."""
    version = importlib.metadata.version("mlops-assets")
    package = Path(mlops_assets.__file__).parent
    commit = _git(package, "rev-parse", "--short=12", "HEAD")
    tracked = _git(package, "ls-files", "--error-unmatch", "__init__.py")
    if commit is None or tracked is None:
        return f"{version}+s{_source_hash(package)}"
    clean = _git(package, "status", "--porcelain", "--", str(package)) == ""
    return f"{version}+g{commit}" if clean else f"{version}+g{commit}.dirty-{_source_hash(package)}"


def libraries() -> dict[str, str]:
    """Versions of the libraries that shape a fitted model."""
    return {name: importlib.metadata.version(name) for name in _LIBRARIES}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _source_hash(package: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]
