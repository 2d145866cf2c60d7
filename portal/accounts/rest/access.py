"""The API of access: members of a thing, its owner, and invitations to it.

A kind of thing gets its routes with one line in its urls: `*access.routes("crews", Crew, "crew")`.
"""

from typing import Any

from django.db import models
from django.shortcuts import get_object_or_404
from django.urls import URLPattern, path
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, serializers, status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from portal.accounts import invitations, sharing
from portal.accounts.models import AccessGrant, Guarded, Invitation, Role, User
from portal.accounts.permissions import Action, find, person, require_role
from portal.lib.problems import FieldError, InvalidValues

Level = AccessGrant.Level


class MemberSerializer(serializers.ModelSerializer[AccessGrant]):
    """Somebody who was let in beside the owner."""

    user_id = serializers.UUIDField()
    username = serializers.CharField(source="user.username")
    name = serializers.CharField(source="user.get_full_name")

    class Meta:
        model = AccessGrant
        fields = ["user_id", "username", "name", "level"]
        read_only_fields = fields


class InvitationSerializer(serializers.ModelSerializer[Invitation]):
    """An offer to join."""

    user_id = serializers.UUIDField(allow_null=True, help_text="Whom it is for; null: whoever holds the link.")
    invited_by = serializers.CharField(source="invited_by.username")

    class Meta:
        model = Invitation
        fields = ["id", "thing", "level", "user_id", "email", "invited_by", "created_at", "expires_at", "answer"]
        read_only_fields = fields


class NewMemberSerializer(serializers.Serializer[Any]):
    """Whom to let in: `user_id`, or `email`."""

    user_id = serializers.UUIDField(required=False)
    email = serializers.EmailField(required=False)
    level = serializers.ChoiceField(choices=Level.choices, default=Level.VIEWER)
    direct = serializers.BooleanField(
        default=False, help_text="For admins: let `user_id` in without asking. Service accounts cannot be asked."
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if ("user_id" in attrs) == ("email" in attrs):
            raise serializers.ValidationError("Give either user_id or email.", code="required")
        if attrs["direct"] and "email" in attrs:
            raise serializers.ValidationError({"direct": "Only who is here can be let in without asking."})
        return attrs


class LetInSerializer(serializers.Serializer[Any]):
    """What came of it: an invitation, or with `direct` a member."""

    invitation = InvitationSerializer(allow_null=True)
    member = MemberSerializer(allow_null=True)
    link = serializers.CharField(
        allow_null=True, help_text="Where it is answered, this once; null when it was mailed. Hand it over yourself."
    )


class LevelSerializer(serializers.Serializer[Any]):
    level = serializers.ChoiceField(choices=Level.choices)


class NewOwnerSerializer(serializers.Serializer[Any]):
    """To whom it shall belong."""

    owner_id = serializers.UUIDField()
    stay = serializers.BooleanField(default=True, help_text="Whether the owner until now stays on as an editor.")


class OwnerSerializer(serializers.Serializer[Any]):
    owner_id = serializers.UUIDField()


class InvitationAnswerSerializer(serializers.Serializer[Any]):
    decision = serializers.ChoiceField(choices=["accept", "decline"])


class InvitationLinkAnswerSerializer(InvitationAnswerSerializer):
    token = serializers.CharField(max_length=100, help_text="The last part of the link.")


class _OfAThing(GenericViewSet[Any]):
    """Base of what hangs on a thing; `routes` makes a class of it for each kind.

    Who may do what is asked of the thing: its owner and admins let people in and hand it on, everybody
    who was let in may go.
    """

    read_role = Role.VIEWER
    write_role = Role.VIEWER
    model: type[Guarded]
    noun_id: str

    def thing(self, wanted: Action) -> Guarded:
        rows: models.QuerySet[Any] = self.model._default_manager.all()
        return find(rows, self.request.user, wanted, pk=self.kwargs[self.noun_id])


class MembersViewSet(mixins.ListModelMixin, _OfAThing):
    """Who was let in beside the owner."""

    queryset = AccessGrant.objects.none()
    serializer_class = MemberSerializer
    search_fields = ("user__username", "user__first_name", "user__last_name")
    ordering_fields = ("level",)
    ordering = "id"

    def get_queryset(self) -> models.QuerySet[AccessGrant]:
        return AccessGrant.objects.filter(access=self.thing(Action.SEE).access_id).select_related("user")

    @extend_schema(request=NewMemberSerializer, responses={201: LetInSerializer})
    def create(self, request: Request, **ids: Any) -> Response:
        """Invite somebody, by `user_id` or `email`; admins may let a user in without asking (`direct`)."""
        by, thing = person(request), self.thing(Action.SHARE)
        asked = NewMemberSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        given = asked.validated_data
        invitation, member, link = None, None, None
        if given["direct"]:
            require_role(by, Role.ADMIN)
            member = sharing.grant(thing, _user("user_id", given["user_id"]), given["level"], by=by)
        else:
            whom = {"user": _user("user_id", given["user_id"])} if "user_id" in given else {"email": given["email"]}
            invitation, token = invitations.invite(thing, level=given["level"], by=by, **whom)
            link = None if invitations.tell(invitation, token) else invitations.link_of(token)
        body = LetInSerializer({"invitation": invitation, "member": member, "link": link}).data
        return Response(body, status=status.HTTP_201_CREATED, headers={"Cache-Control": "no-store"})

    @extend_schema(request=LevelSerializer, responses=MemberSerializer)
    def partial_update(self, request: Request, user_id: Any, **ids: Any) -> Response:
        """Change the level of somebody who is in."""
        thing = self.thing(Action.SHARE)
        member = get_object_or_404(AccessGrant.objects.select_related("user"), access=thing.access_id, user=user_id)
        asked = LevelSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        changed = sharing.grant(thing, member.user, asked.validated_data["level"], by=person(request))
        return Response(MemberSerializer(changed).data)

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, user_id: Any, **ids: Any) -> Response:
        """Let somebody in no more; or go yourself."""
        by = person(request)
        thing = self.thing(Action.SEE if user_id == by.pk else Action.SHARE)
        member = get_object_or_404(AccessGrant.objects.select_related("user"), access=thing.access_id, user=user_id)
        sharing.withdraw(thing, member.user, by=by)
        return Response(status=status.HTTP_204_NO_CONTENT)


class OwnerViewSet(_OfAThing):
    """Whose it is."""

    serializer_class = NewOwnerSerializer

    @extend_schema(request=NewOwnerSerializer, responses=OwnerSerializer)
    def create(self, request: Request, **ids: Any) -> Response:
        """Hand it on. Open invitations to it are withdrawn."""
        by, thing = person(request), self.thing(Action.SHARE)
        asked = NewOwnerSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        given = asked.validated_data
        to = _user("owner_id", given["owner_id"])
        sharing.hand_on(thing, to=to, by=by, keep=Level.EDITOR if given["stay"] else None)
        return Response(OwnerSerializer({"owner_id": to.pk}).data)


class OpenInvitationsViewSet(mixins.ListModelMixin, _OfAThing):
    """The open invitations to it, for who may let people in."""

    queryset = Invitation.objects.none()
    serializer_class = InvitationSerializer
    ordering_fields = ("created_at", "expires_at")
    ordering = "-created_at"

    def get_queryset(self) -> models.QuerySet[Invitation]:
        return invitations.open_of(self.thing(Action.SHARE))


class InvitationViewSet(
    mixins.ListModelMixin, mixins.RetrieveModelMixin, mixins.DestroyModelMixin, GenericViewSet[Any]
):
    """Invitations that wait for your answer; to take back: those you made, and those to what is yours."""

    noun = "an invitation"
    nouns = "the invitations that wait for you"
    looks_up = {"answer_link"}
    read_role = Role.VIEWER
    write_role = Role.VIEWER
    lookup_value_converter = "uuid"
    queryset = Invitation.objects.none()
    serializer_class = InvitationSerializer
    ordering_fields = ("created_at", "expires_at")
    ordering = "-created_at"

    def get_queryset(self) -> models.QuerySet[Invitation]:
        user = person(self.request)
        if self.action in {"list", "answer"}:
            return invitations.open_for(user)
        return invitations.known_to(user)

    def perform_destroy(self, instance: Invitation) -> None:
        invitations.withdraw(instance, by=person(self.request))

    @extend_schema(summary="Answer an invitation", request=InvitationAnswerSerializer, responses=InvitationSerializer)
    @action(detail=True, methods=["post"], filter_backends=[])
    def answer(self, request: Request, pk: Any) -> Response:
        """Join, or say no. Each invitation is answered once."""
        invitation = self.get_object()
        asked = InvitationAnswerSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        return self._answered(invitation, asked.validated_data["decision"])

    @extend_schema(
        operation_id="invitations_answer_link",
        summary="Answer the invitation of a link",
        request=InvitationLinkAnswerSerializer,
        responses=InvitationSerializer,
    )
    @action(detail=False, methods=["post"], url_path="answer", filter_backends=[], pagination_class=None)
    def answer_link(self, request: Request) -> Response:
        """Join, or say no, with the `token` of a link. Each invitation is answered once."""
        asked = InvitationLinkAnswerSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        invitation = invitations.find(asked.validated_data["token"], by=person(request))
        return self._answered(invitation, asked.validated_data["decision"])

    def _answered(self, invitation: Invitation, decision: str) -> Response:
        do = invitations.accept if decision == "accept" else invitations.decline
        do(invitation, by=person(self.request))
        return Response(InvitationSerializer(invitation).data)


def routes(prefix: str, model: type[Guarded], noun: str) -> list[URLPattern]:
    """Members, owner and open invitations of things of `model`, under `prefix` (`crews`), each a `noun` (`crew`)."""
    facts = {"model": model, "noun_id": f"{noun}_id"}

    def made(base: type[_OfAThing], what: str) -> Any:
        return type(f"{model.__name__}{base.__name__}", (base,), {"__doc__": base.__doc__, "noun": what, **facts})

    members = made(MembersViewSet, f"a member of a {noun}")
    owner = made(OwnerViewSet, f"the owner of a {noun}")
    open_ones = made(OpenInvitationsViewSet, f"an open invitation to a {noun}")
    thing = f"{prefix}/<uuid:{noun}_id>"
    member = members.as_view({"patch": "partial_update", "delete": "destroy"})
    return [
        path(f"{thing}/members", members.as_view({"get": "list", "post": "create"}), name=f"{noun}-members"),
        path(f"{thing}/members/<uuid:user_id>", member, name=f"{noun}-member"),
        path(f"{thing}/owner", owner.as_view({"post": "create"}), name=f"{noun}-owner"),
        path(f"{thing}/invitations", open_ones.as_view({"get": "list"}), name=f"{noun}-invitations"),
    ]


def _user(field: str, pk: Any) -> User:
    user = User.objects.filter(pk=pk).first()
    if user is None:
        raise InvalidValues([FieldError(field, "does_not_exist", "There is no such user.")])
    return user
