"""How deliverables, their reviews, comments and accesses look to programs."""

from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from portal.accounts.models import User
from portal.accounts.rest.access import InvitationSerializer
from projects.models import Comment, Deliverable, DeliverableAccess, DeliverableFile, Review


class DeliverableSummarySerializer(serializers.ModelSerializer[Deliverable]):
    """A version without its text, as lists show it."""

    project_id = serializers.UUIDField()
    stage_id = serializers.UUIDField()
    stage_name = serializers.CharField(source="stage.stage_name")
    file_path = serializers.SerializerMethodField(help_text=gettext_lazy("Of what was uploaded; null for text."))
    parent_deliverable_id = serializers.UUIDField(allow_null=True, help_text=gettext_lazy("The version before."))
    created_by_id = serializers.UUIDField(
        allow_null=True, help_text=gettext_lazy("Who wrote it by hand; null when a role did.")
    )
    execution_id = serializers.UUIDField(allow_null=True, help_text=gettext_lazy("The run that made it."))
    tags = serializers.ListField(child=serializers.CharField())
    metadata = serializers.DictField(help_text=gettext_lazy("Of code: `checks`, what was found when it was tried."))
    url = serializers.SerializerMethodField()

    class Meta:
        model = Deliverable
        fields: list[str] = [
            *("id", "project_id", "stage_id", "stage_name", "deliverable_type", "title", "description", "file_path"),
            *("file_type", "file_size", "sha256", "lineage", "version", "is_latest", "parent_deliverable_id"),
            *("status", "created_by_role", "created_by_id", "reviewed_by_role", "approved_by_role"),
            *("review_comments", "tags", "metadata", "execution_id", "llm_model", "created_at", "url"),
        ]
        read_only_fields = fields

    @extend_schema_field(serializers.CharField(allow_null=True))
    def get_file_path(self, deliverable: Deliverable) -> str | None:
        return deliverable.upload.name or None

    def get_url(self, deliverable: Deliverable) -> str:
        return f"/api/deliverables/{deliverable.pk}"


class BundleFileSerializer(serializers.ModelSerializer[DeliverableFile]):
    """A file of a code bundle; its text is downloaded with `?path=`."""

    class Meta:
        model = DeliverableFile
        fields = ["path", "size"]
        read_only_fields = fields


class ReviewSerializer(serializers.ModelSerializer[Review]):
    """One person's decision; `sha256` is what it was about."""

    reviewer_id = serializers.UUIDField(allow_null=True)

    class Meta:
        model = Review
        fields = ["reviewer_id", "role", "decision", "comments", "sha256", "created_at"]
        read_only_fields = fields


class DeliverableSerializer(DeliverableSummarySerializer):
    """One version of a document or code bundle, whole."""

    files = BundleFileSerializer(many=True)
    reviews = ReviewSerializer(many=True)

    class Meta(DeliverableSummarySerializer.Meta):
        fields = [*DeliverableSummarySerializer.Meta.fields, "content", "prompt", "files", "reviews"]
        read_only_fields = fields


class NewFileSerializer(serializers.Serializer[Any]):
    """A text file of a code bundle."""

    path = serializers.CharField(max_length=250, help_text=gettext_lazy("Relative, with forward slashes."))
    content = serializers.CharField(allow_blank=True, trim_whitespace=False)


class DeliverableTextSerializer(serializers.Serializer[Any]):
    """What a version holds; what is not named stays as it was."""

    title = serializers.CharField(max_length=200, required=False)
    description = serializers.CharField(required=False, allow_blank=True, trim_whitespace=False)
    content = serializers.CharField(
        required=False, allow_blank=True, trim_whitespace=False, help_text=gettext_lazy("Markdown.")
    )
    files = NewFileSerializer(many=True, required=False, help_text=gettext_lazy("All files of the bundle."))
    tags = serializers.ListField(child=serializers.CharField(max_length=50), required=False, max_length=20)
    file = serializers.FileField(
        required=False, help_text=gettext_lazy("A PDF or an image, in a form (multipart/form-data).")
    )


class NewDeliverableSerializer(DeliverableTextSerializer):
    """A deliverable made by hand."""

    title = serializers.CharField(max_length=200)
    stage_id = serializers.CharField(
        max_length=40, required=False, help_text=gettext_lazy("The stage it belongs to; its name does as well.")
    )
    stage = serializers.CharField(
        max_length=40, required=False, help_text=gettext_lazy("The same, for who knows it by its name.")
    )
    deliverable_type = serializers.ChoiceField(choices=Deliverable.Type.choices)
    file_type = serializers.ChoiceField(choices=Deliverable.FileType.choices, required=False)
    metadata = serializers.DictField(required=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        named = {attrs.pop(name) for name in ("stage_id", "stage") if name in attrs}
        if len(named) != 1:
            raise serializers.ValidationError({"stage_id": _("Name one stage.")}, code="required")
        return {**attrs, "stage": named.pop()}


class DecisionSerializer(serializers.Serializer[Any]):
    """A decision: sending back needs `review_comments`."""

    status = serializers.ChoiceField(choices=Review.Decision.choices, source="decision")
    reviewed_by_role = serializers.CharField(
        required=False, allow_blank=True, max_length=100, source="role", help_text=gettext_lazy("A label.")
    )
    review_comments = serializers.CharField(
        required=False, allow_blank=True, trim_whitespace=False, source="comments", max_length=20_000
    )


class ReviewStageSerializer(DecisionSerializer):
    sha256 = serializers.ListField(
        child=serializers.CharField(max_length=64),
        required=False,
        max_length=200,
        source="seen",
        help_text=gettext_lazy("Of each deliverable that you have seen: 409 when one of them is another version."),
    )


class ReviewDeliverableSerializer(DecisionSerializer):
    content = serializers.CharField(
        required=False,
        trim_whitespace=False,
        help_text=gettext_lazy("With “approved”: this text is approved instead, as a new version."),
    )
    sha256 = serializers.CharField(
        required=False, max_length=64, help_text=gettext_lazy("Of what you have seen: 409 when it is another version.")
    )


class ShareSerializer(serializers.Serializer[Any]):
    """Who shall see it: `user_id`, or `email`."""

    user_id = serializers.PrimaryKeyRelatedField(
        source="user", queryset=User.objects.filter(is_active=True), pk_field=serializers.UUIDField(), required=False
    )
    email = serializers.EmailField(required=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if ("user" in attrs) == ("email" in attrs):
            raise serializers.ValidationError(_("Give either user_id or email."), code="required")
        return attrs


class SharedSerializer(serializers.Serializer[Any]):
    """What came of it: an invitation, or null where they may see it already."""

    invitation = InvitationSerializer(allow_null=True)
    link = serializers.CharField(
        allow_null=True, help_text=gettext_lazy("To hand over yourself, this once; null when it was mailed.")
    )


class AccessSerializer(serializers.ModelSerializer[DeliverableAccess]):
    """A line of the access log. `accessed_by_role` is a label; it grants nothing."""

    deliverable_id = serializers.UUIDField()
    project_id = serializers.UUIDField()
    version = serializers.CharField(source="deliverable.version")
    accessed_by_id = serializers.UUIDField(allow_null=True, help_text=gettext_lazy("null: a role's run did."))
    accessed_by = serializers.CharField(source="accessed_by.username", default=None, allow_null=True)
    access_details = serializers.DictField()

    class Meta:
        model = DeliverableAccess
        fields = [
            *("id", "deliverable_id", "project_id", "version", "accessed_by_role", "accessed_by_id", "accessed_by"),
            *("access_type", "access_details", "created_at"),
        ]
        read_only_fields = fields


class CommentSerializer(serializers.ModelSerializer[Comment]):
    """What a person says about a version."""

    author_id = serializers.UUIDField(read_only=True, allow_null=True)
    author = serializers.CharField(source="author.username", read_only=True, default=None, allow_null=True)

    class Meta:
        model = Comment
        fields = ["id", "author_id", "author", "text", "created_at"]


class AgainstSerializer(serializers.Serializer[Any]):
    against = serializers.UUIDField(required=False)


class DeliverablePieceSerializer(serializers.Serializer[Any]):
    """A stretch of text on the way from the one to the other."""

    kind = serializers.ChoiceField(choices=["same", "added", "removed"])
    text = serializers.CharField(trim_whitespace=False)


class FileDiffSerializer(serializers.Serializer[Any]):
    """A file that differs."""

    path = serializers.CharField()
    status = serializers.ChoiceField(choices=["added", "removed", "changed"])
    pieces = DeliverablePieceSerializer(many=True)


class DiffSerializer(serializers.Serializer[Any]):
    """What changed between two versions."""

    from_id = serializers.UUIDField()
    to_id = serializers.UUIDField()
    is_same = serializers.BooleanField()
    pieces = DeliverablePieceSerializer(many=True, help_text=gettext_lazy("Of the text."))
    files = FileDiffSerializer(many=True)
