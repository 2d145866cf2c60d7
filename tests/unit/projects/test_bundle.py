"""Looking through bundles, and taking them away: nothing of it can become a page of ours."""

import html
import io
import re
import zipfile

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.http import Http404
from hypothesis import given
from hypothesis import strategies as st

from projects.deliverables import bundle, files
from projects.models import DeliverableAccess, DeliverableFile
from tests.factories.projects import StageFactory, deliverable_of

MARKUP = re.compile(r'</?(?:pre|code|span)(?: class="[a-z0-9 -]+")?>')
NAMES = ["a.py", "a.html", "a.js", "a.md", "Dockerfile", "a.unknown", "noend", "a.json", "a.svg", "a.php", "a.css"]


def text_of(markup):
    return html.unescape(MARKUP.sub("", markup))


def body_of(response):
    return b"".join(response.streaming_content)


class TestHighlighting:
    def test_words_of_the_language_have_classes(self):
        shown = bundle.highlighted(DeliverableFile(path="src/a.py", content="def a():\n    return 1\n"))
        assert '<span class="hl-k">def</span>' in shown
        assert shown.count('<span class="line">') == 2
        assert "style=" not in shown

    @pytest.mark.parametrize("name", NAMES)
    def test_markup_is_text(self, name):
        evil = "</code></pre><script>alert(1)</script><img src=x onerror=alert(1)> {{ x }} &lt;\n\"'"
        shown = bundle.highlighted(DeliverableFile(path=name, content=evil))
        assert text_of(shown) == evil
        assert "<script" not in shown
        assert "<img" not in shown

    @pytest.mark.parametrize("name", NAMES)
    @given(text=st.text(alphabet=st.sampled_from("<>&\"'/=-{}%#\n\t ab1é한;:!?*`~\\|")))
    def test_any_text_stays_what_it_is(self, name, text):
        shown = bundle.highlighted(DeliverableFile(path=name, content=text))
        assert text_of(shown) == text.removesuffix("\n")

    @pytest.mark.parametrize("content", ["<" * (bundle.LONGEST_LINE + 1), "<a>\n" * 50_000])
    def test_what_is_endless_is_shown_plain(self, content):
        shown = bundle.highlighted(DeliverableFile(path="a.html", content=content))
        assert "hl-" not in shown
        assert text_of(shown) == content.removesuffix("\n")

    @pytest.mark.parametrize("end", ["\r\n", "\r", "\u2028", "\f"])
    def test_a_line_is_a_line_however_it_ends(self, end):
        shown = bundle.highlighted(DeliverableFile(path="a.py", content=f"a = 1{end}b = 2{end}"))
        assert shown.count('<span class="line">') == 2


@pytest.fixture
def code(db):
    paths = ["src/app/main.py", "README.md", "src/a.py", "tests/test_a.py", "LICENSE"]
    entries = [{"path": path, "content": f"# {path}"} for path in paths]
    return deliverable_of(StageFactory(), type="code", title="A to-do 목록", content="How to run.", files=entries)


def test_the_tree_has_folders_first(code, django_assert_num_queries):
    with django_assert_num_queries(1):
        nodes = bundle.tree(code)
    assert [(node.name, node.is_folder) for node in nodes] == [
        *(("src", True), ("tests", True), ("LICENSE", False), ("README.md", False))
    ]
    src = nodes[0]
    assert [(node.path, node.size) for node in src.children] == [("src/app", None), ("src/a.py", 10)]
    assert src.children[0].children[0].path == "src/app/main.py"


class TestDownload:
    def test_a_bundle_is_a_zip_with_one_folder(self, code):
        response = bundle.download(code, code.project.access.owner)
        assert response["Content-Type"] == "application/zip"
        with zipfile.ZipFile(io.BytesIO(body_of(response))) as zipped:
            assert zipped.testzip() is None
            assert zipped.read("a-to-do-목록-1.0/src/a.py") == b"# src/a.py"
            assert zipped.read("a-to-do-목록-1.0.md") == b"How to run."
            assert len(zipped.namelist()) == 6

    def test_the_same_version_gives_the_same_bytes(self, code):
        assert bundle.zip_of(code).read() == bundle.zip_of(code).read()

    def test_one_file_is_plain_text(self, code):
        entries = [{"path": "web/index.html", "content": "<script>alert(1)</script>"}]
        page = deliverable_of(code.stage, type="code", files=entries)
        response = bundle.download(page, page.project.access.owner, path="web/index.html", role="Engineer")
        assert response["Content-Type"] == "text/plain; charset=utf-8"
        assert response["Content-Disposition"] == 'attachment; filename="index.html"'
        assert response["X-Content-Type-Options"] == "nosniff"
        assert response["Content-Security-Policy"].startswith("sandbox")
        logged = DeliverableAccess.objects.get()
        assert (logged.access_type, logged.accessed_by_role) == ("download", "Engineer")
        assert logged.access_details == {"path": "web/index.html"}

    @pytest.mark.parametrize("path", ["nothing", "../README.md", "src", "\0", "README.md\0x"])
    def test_a_path_that_is_not_there(self, path, code):
        with pytest.raises(Http404):
            bundle.download(code, None, path=path)
        assert not DeliverableAccess.objects.exists()

    @pytest.mark.parametrize(("file_type", "content", "end"), [("", "# It", "md"), ("json", "{}", "json")])
    def test_a_document_is_text(self, file_type, content, end, code):
        made = deliverable_of(code.stage, title="<b>/..\\", content=content, file_type=file_type)
        response = bundle.download(made, None)
        assert response["Content-Type"] == "text/plain; charset=utf-8"
        assert response["Content-Disposition"] == f'attachment; filename="b-1.0.{end}"'
        assert body_of(response) == content.encode()

    def test_an_upload_comes_back_as_it_was(self, code, settings, tmp_path):
        settings.MEDIA_ROOT = tmp_path
        content = b"%PDF-1.4 <script>"
        upload = files.uploaded(SimpleUploadedFile('re"port.html', content))
        response = bundle.download(deliverable_of(code.stage, upload=upload), None)
        assert response["Content-Type"] == "application/pdf"
        assert response["Content-Disposition"].startswith("attachment")
        assert body_of(response) == content
