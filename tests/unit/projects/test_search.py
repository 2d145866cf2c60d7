"""Full-text search: what a text's terms are, and that the database finds what they say. Holds on both databases."""

import random
import time

import pytest
from django.db import connection
from hypothesis import given
from hypothesis import strategies as st
from rest_framework.request import Request
from rest_framework.test import APIRequestFactory

from executions.events import plain
from portal.accounts.models import Visibility
from portal.lib.pagination import CursorPages
from projects.deliverables import fulltext, search
from projects.deliverables.search import asked, terms
from projects.models import Deliverable, Project
from tests.factories.accounts import UserFactory
from tests.factories.projects import ProjectFactory, StageFactory, deliverable_of


class TestTerms:
    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ("The Quick, quick FOX-trot!", {"the", "quick", "fox", "trot"}),
            ("order_items v2.10", {"order", "items", "v2", "10"}),
            ("Café NAÏVE Straße ﬁne", {"cafe", "naive", "strasse", "fine"}),
            ("ΣΊΣΥΦΟΣ", {"σισυφοσ"}),
            ("녹차", {"녹차", "녹", "차"}),
            ("모바일앱", {"모바", "바일", "일앱", "모", "바", "일", "앱"}),
            ("\u1102\u1169\u11a8", {"녹"}),  # written as letters that are put together
            ("탑・탑", {"탑"}),
            ("API를 만든다", {"api", "를", "만든", "든다", "만", "든", "다"}),
            ("東京タワー", {"東京", "京タ", "タワ", "ワー", "東", "京", "タ", "ワ", "ー"}),
            ("", set()),
            ("— … \0 ' \" * ()", set()),
        ],
    )
    def test_they_are_words_without_case_and_pairs_of_syllables(self, text, found):
        assert set(terms(text).split()) == found

    def test_each_stands_there_once(self):
        assert terms("tea Tea", "green TEA") == "tea green"

    def test_they_are_bounded(self):
        endless = " ".join(f"word{number}" for number in range(200_000))
        assert len(terms("title", endless).encode()) <= search.MAX_TERMS_BYTES
        assert terms("title", endless).startswith("title word0 ")
        assert terms("x" * 100) == "x" * search.MAX_TERM

    def test_taking_a_long_text_apart_takes_a_moment(self):
        began = time.process_time()
        terms("녹차는 향이 좋다 and so is Café. " * 200_000)
        assert time.process_time() - began < 10

    @given(st.text(max_size=60))
    def test_they_hold_nothing_that_a_query_language_knows(self, text):
        for term in terms(text).split(" "):
            assert term == "" or all(character.isalnum() for character in term)

    @given(st.text(max_size=60))
    def test_a_text_is_found_by_itself(self, text):
        found = set(terms(text).split())
        assert all(term in found for term, _is_open in asked(text))

    @given(st.text(max_size=40), st.text(max_size=40))
    def test_case_is_nothing(self, text, other):
        assert terms(text.lower()) == terms(text.lower().upper().lower())


class TestAsked:
    @pytest.mark.parametrize(
        ("question", "wanted"),
        [
            ("green te", [("green", False), ("te", True)]),
            ("te green te", [("te", False), ("green", False)]),
            ("tea", [("tea", True)]),
            ("모바일", [("모바", False), ("바일", False)]),
            ("앱", [("앱", False)]),
            ("앱 tea", [("앱", False), ("tea", True)]),
            ("tea 앱", [("tea", False), ("앱", False)]),
            ('"tea" OR NOT (x*', [("tea", False), ("or", False), ("not", False), ("x", True)]),
            ("'; --", []),
        ],
    )
    def test_all_words_and_the_last_one_begun(self, question, wanted):
        assert asked(question) == wanted


@pytest.fixture
def stage(db):
    return StageFactory()


def found(question, queryset=None):
    rows = search.search(Deliverable.objects.all() if queryset is None else queryset, question)
    return set(rows.values_list("title", flat=True))


@pytest.fixture
def documents(stage):
    deliverable_of(stage, title="Shopping cart", content="Customers pay with a CARD.", tags=["checkout"])
    deliverable_of(stage, title="요구사항", content="장바구니에 상품을 담고 결제한다. API는 REST이다.")
    deliverable_of(stage, title="Code", content="", files=[{"path": "src/basket.py", "content": "def total(): café"}])


@pytest.mark.usefixtures("documents")
class TestFinding:
    @pytest.mark.parametrize(
        ("question", "titles"),
        [
            ("card", {"Shopping cart"}),
            ("CARD customers", {"Shopping cart"}),
            ("custom", {"Shopping cart"}),  # the last word may be begun
            ("custom card", set()),  # no other may
            ("car", {"Shopping cart"}),
            ("checkout", {"Shopping cart"}),
            ("장바구니", {"요구사항"}),
            ("바구니", {"요구사항"}),  # within a word
            ("구사", {"요구사항"}),
            ("상품 결제", {"요구사항"}),
            ("결제 상품 api", {"요구사항"}),
            ("상", {"요구사항"}),
            ("바니", set()),
            ("basket", {"Code"}),
            ("total CAFE", {"Code"}),
            ("", {"Shopping cart", "요구사항", "Code"}),
            ("  ", {"Shopping cart", "요구사항", "Code"}),
            ("!?", set()),
            ("card nothing", set()),
        ],
    )
    def test_what_is_found(self, question, titles):
        assert found(question) == titles

    @pytest.mark.parametrize(
        "question",
        [
            *("'", '"', "\\", "*", "a*b", "(", "NEAR(a b)", "a AND", "OR", "NOT x", "^a", "terms:a", "-a", "a:*", "!a"),
            *("a & | b", "<->", "\0", "a\0b", "\ud800", "'; DROP TABLE x; --", "%s", "%", "{}", "𝔞", "\u0301", "🍵"),
            *("a " * 10_000, "한" * 10_000, "x" * 100_000),
        ],
    )
    def test_odd_questions_find_something_or_nothing(self, question):
        found(question)

    @pytest.mark.parametrize("word", ["word", "녹차", "é" * 8])
    def test_what_holds_more_words_than_can_be_kept_is_stored_all_the_same(self, stage, word):
        content = " ".join(f"{word}{number}" for number in range(120_000))
        deliverable_of(stage, title="Endless", content=content)
        assert found(f"{word}7") == {"Endless"}
        assert found("endless") == {"Endless"}

    def test_a_new_version_is_found_by_its_own_words(self, stage):
        old = Deliverable.objects.get(title="Shopping cart")
        deliverable_of(stage, title="Shopping cart", content="Cash alone.", lineage_of=old)
        latest = Deliverable.objects.filter(is_latest=True)
        assert found("cash", latest) == {"Shopping cart"}
        assert found("card", latest) == set()
        assert found("card") == {"Shopping cart"}

    def test_what_is_deleted_is_not_found_and_leaves_nothing(self, stage):
        Project.objects.get(pk=stage.project_id).delete()
        assert found("card") == set()
        if connection.vendor == "sqlite":
            with connection.cursor() as cursor:
                cursor.execute(f"SELECT count(*) FROM {fulltext.KEYS}")  # noqa: S608
                assert cursor.fetchone() == (0,)

    def test_what_is_written_around_the_model_is_found_too(self):
        Deliverable.objects.filter(title="Code").update(search_text="bergamot")
        assert found("bergamot") == {"Code"}
        assert found("basket") == set()

    def test_only_what_a_person_may_see(self, stage):
        other = deliverable_of(StageFactory(), title="Theirs", content="card")
        for user, titles in [
            (stage.project.access.owner, {"Shopping cart"}),
            (other.project.access.owner, {"Theirs"}),
            (UserFactory(), set()),
            (UserFactory(admin=True), {"Shopping cart", "Theirs"}),
        ]:
            visible = Deliverable.objects.filter(project__in=Project.objects.visible_to(user))
            assert found("card", visible) == titles
        other.project.access.visibility = Visibility.SHARED
        other.project.access.save()
        visible = Deliverable.objects.filter(project__in=Project.objects.visible_to(UserFactory(viewer=True)))
        assert found("card", visible) == {"Theirs"}

    def test_installing_it_again_finds_all_that_is_there(self):
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")  # no index is made while checks are still to come
        fulltext.install(None, connection.schema_editor())
        assert found("바구니") == {"요구사항"}


def test_results_are_paged_newest_first(stage):
    made = [deliverable_of(stage, title=f"Tea {number}").title for number in range(7)]
    seen, url = [], "/?page_size=3"
    while url:
        pages = CursorPages()
        rows = search.search(Deliverable.objects.all(), "tea").defer("content")
        seen += [row.title for row in pages.paginate_queryset(rows, Request(APIRequestFactory().get(url)))]
        url = pages.get_next_link()
    assert seen == made[::-1]


def test_the_database_finds_what_the_terms_say(stage):
    """Whatever stands in texts and questions: the same rows as a look at each text's terms."""
    chance = random.Random(7)
    parts = [
        *"abAB12 _-.'\"*&|:()",
        "tea",
        "te",
        "Tee",
        "é",
        "ß",
        "녹차",
        "녹",
        "차는",
        "東京",
        "タ",
        "\0",
        " ",
        " ",
        "\n",
    ]

    def text(most):
        return "".join(chance.choices(parts, k=chance.randint(1, most)))

    texts = {f"D{number}": text(30) for number in range(60)}
    for title, content in texts.items():
        deliverable_of(stage, title=title, content=content)
    held = {title: set(terms(title, plain(content)).split()) for title, content in texts.items()}
    for _ in range(150):
        question = text(5)
        wanted = asked(question)
        expected = {
            title
            for title, words in held.items()
            if all(term in words or (is_open and any(w.startswith(term) for w in words)) for term, is_open in wanted)
        }
        assert found(question) == (expected if wanted or not question.strip() else set()), question


@pytest.mark.skipif(connection.vendor != "sqlite", reason="triggers are SQLite's")
def test_the_triggers_outlive_all_migrations(db):
    """A migration that makes the table anew loses them: it has to end with `RunPython(fulltext.install)`."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = %s", [fulltext.TABLE])
        names = {name for (name,) in cursor.fetchall()}
    assert names == {f"{fulltext.INDEX}_{name}" for name in fulltext._TRIGGERS}


@pytest.mark.django_db
def test_a_search_takes_one_query_however_much_is_found(django_assert_num_queries):
    stage = StageFactory(project=ProjectFactory())
    for count in (3, 30):
        for _ in range(count):
            deliverable_of(stage)
        with django_assert_num_queries(1):
            list(search.search(Deliverable.objects.filter(project=stage.project), "says document")[:51])
