"""Users."""

import factory
from factory.django import DjangoModelFactory

from portal.accounts.models import AccessList, Role, User

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
