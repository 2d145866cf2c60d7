"""Views that take what a page's form sends, and have no page of their own."""

import functools
from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.shortcuts import redirect

View = Callable[..., HttpResponse]


def post_from(page: str) -> Callable[[View], View]:
    """Take a POST from the page of that name; who comes by the address itself is led to the page.

    An answer with a faulty form stands at this address: loading it again, or choosing another language
    there, must not end at nothing.
    """

    def wrap(view: View) -> View:
        @functools.wraps(view)
        def taken(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            if request.method == "POST":
                return view(request, *args, **kwargs)
            if request.method in {"GET", "HEAD"}:
                return redirect(page, *([kwargs["pk"]] if "pk" in kwargs else []))
            return HttpResponseNotAllowed(["GET", "HEAD", "POST"])

        return taken

    return wrap
