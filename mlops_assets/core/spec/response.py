"""What is done about a model that is not well, and who is called."""

from mlops_assets.core.spec.declaration import Declaration


class ResponseSpec(Declaration):
    """Who is called when the platform cannot help itself."""

    notify: tuple[str, ...] = ()
