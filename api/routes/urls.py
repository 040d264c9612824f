"""Pictures named by address: a list of them goes into the ledger at once, and is fetched by a worker."""

from __future__ import annotations

from fastapi import APIRouter

from api.deps import Here, Owner
from api.errors import problems
from api.schemas.urls import UrlsIn, UrlsOut, urls_out
from catalog.datasets import fetches, service
from catalog.datasets.fetches import Wanted
from catalog.uploads.limits import filled
from contracts.failures import FailureCode, FieldError, InvalidInput, PatinaError

router = APIRouter(prefix="/datasets", tags=["datasets"])


@router.post(
    "/{dataset}/urls",
    summary="Have pictures fetched from a list of addresses",
    status_code=202,
    responses=problems(FailureCode.NOT_FOUND, FailureCode.TOO_LARGE),
)
def offer_urls(dataset: str, body: UrlsIn, here: Here, owner: Owner) -> UrlsOut:
    """Every address becomes one row of the ledger, which says what came of it. Offering it again is no harm."""
    most = here.settings.max_urls
    if len(body.urls) > most:
        message = f"{len(body.urls)} addresses are more than the {most} of one request"
        hint = "Send them in several requests, or raise PATINA_MAX_URLS on the server."
        raise InvalidInput([FieldError(pointer="/urls", message=message)], hint=hint)
    with here.database.session() as session:
        known = service.find_dataset(session, owner, dataset)
        offered = fetches.offer(session, owner, known.id, [Wanted(one.url, one.caption) for one in body.urls])
        has = filled(session, owner, known.id, here.settings.dataset_limits)
        if offered.new and has.images > has.limits.images:  # raised in the transaction, which is taken back
            raise PatinaError(
                FailureCode.TOO_LARGE,
                f"These addresses would take the dataset over {has.limits.images} images (PATINA_MAX_DATASET_IMAGES).",
                "Use another dataset, or raise PATINA_MAX_DATASET_IMAGES on the server.",
            )
    return urls_out(known.id, offered)
