"""What other rooms hear about people."""

from django.dispatch import Signal

# A person or service account may do nothing any more. Sent after the commit, with `user` and `by`
# (the admin; None: the system). Whoever lets something go on in that person's name ends it now.
user_deactivated = Signal()
