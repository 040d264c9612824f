"""Recipes: the starting points of runs, with every setting they fix."""

from __future__ import annotations

from fastapi import APIRouter

from api.deps import Here
from api.schemas.common import Page
from api.schemas.recipes import RecipeOut, recipe_out
from catalog.runs.recipes import list_recipes

router = APIRouter(prefix="/recipes", tags=["recipes"])


@router.get("", summary="List recipes")
def list_all(here: Here) -> Page[RecipeOut]:
    return Page(items=[recipe_out(recipe) for recipe in list_recipes(here.settings.recipes)], next_cursor=None)
