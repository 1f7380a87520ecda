"""Errors of what users give: the message says what was given, what is allowed, what to do."""


class UserError(Exception):
    """What was given is at fault, not the program: the command line prints it and exits with 2."""


class InputError(UserError, ValueError):
    """A value that cannot be."""


class FileError(UserError, OSError):
    """A file or folder that cannot be written as asked."""


class InputTypeError(UserError, TypeError):
    """A value or a function of another type than is needed."""
