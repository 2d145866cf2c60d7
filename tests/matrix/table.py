"""THE table: who may do what on every route. Written from SPEC (§6, §7); nothing of it is read from the code.

A row is a route's name. For each method it says the role that is needed (`viewer` unless it says
otherwise), what it does to the thing of the address, and which answers only come to who was let in.
A new route fails until it stands here.
"""

from tests.matrix.rules import Route
from tests.matrix.table_accounts import ACCOUNTS
from tests.matrix.table_admin import ADMIN
from tests.matrix.table_api import API
from tests.matrix.table_pages import PAGES
from tests.matrix.table_project_pages import PROJECT_PAGES
from tests.matrix.table_projects import PROJECTS

ROUTES: dict[str, Route] = {**PAGES, **PROJECT_PAGES, **API, **PROJECTS, **ACCOUNTS, **ADMIN}
