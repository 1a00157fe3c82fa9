class UserError(ValueError):
    "A mistake the user can mend; the message is one sentence that says what is wrong and how to mend it."
