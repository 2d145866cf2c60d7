"""Users."""

import factory
from factory.django import DjangoModelFactory

from portal.accounts import keys
from portal.accounts.models import AccessList, Role, Scope, User

PASSWORD = "correct horse battery staple"


class UserFactory(DjangoModelFactory):
    """A person with the role `user`, who signs in with `PASSWORD`."""

    class Meta:
        model = User
        skip_postgeneration_save = True

    username = factory.Sequence(lambda n: f"person{n}")
    email = factory.LazyAttribute(lambda user: f"{user.username}@example.com")
    role = Role.USER
    password = factory.django.Password(PASSWORD)

    class Params:
        admin = factory.Trait(role=Role.ADMIN, is_staff=True, is_superuser=True)
        viewer = factory.Trait(role=Role.VIEWER)


class AccessListFactory(DjangoModelFactory):
    """A private access list of a new user."""

    class Meta:
        model = AccessList

    owner = factory.SubFactory(UserFactory)


def key_of(user: User, *scopes: Scope) -> str:
    """The text of a new API key of `user`; without `scopes`, with every one that its role may have."""
    wanted = scopes or [scope for scope in Scope if user.has_role(scope.cap)]
    return keys.create(user, name="test", scopes=wanted, by=None)[1]
