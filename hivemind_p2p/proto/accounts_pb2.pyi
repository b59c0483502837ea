from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Credentials(_message.Message):
    __slots__ = ("username", "password")
    USERNAME_FIELD_NUMBER: _ClassVar[int]
    PASSWORD_FIELD_NUMBER: _ClassVar[int]
    username: str
    password: str
    def __init__(self, username: _Optional[str] = ..., password: _Optional[str] = ...) -> None: ...

class AccountsRequest(_message.Message):
    __slots__ = ("register", "login", "accounts_of")
    REGISTER_FIELD_NUMBER: _ClassVar[int]
    LOGIN_FIELD_NUMBER: _ClassVar[int]
    ACCOUNTS_OF_FIELD_NUMBER: _ClassVar[int]
    register: Credentials
    login: Credentials
    accounts_of: Peers
    def __init__(self, register: _Optional[_Union[Credentials, _Mapping]] = ..., login: _Optional[_Union[Credentials, _Mapping]] = ..., accounts_of: _Optional[_Union[Peers, _Mapping]] = ...) -> None: ...

class Peers(_message.Message):
    __slots__ = ("peers",)
    PEERS_FIELD_NUMBER: _ClassVar[int]
    peers: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, peers: _Optional[_Iterable[str]] = ...) -> None: ...

class AccountsAnswer(_message.Message):
    __slots__ = ("username", "usernames")
    USERNAME_FIELD_NUMBER: _ClassVar[int]
    USERNAMES_FIELD_NUMBER: _ClassVar[int]
    username: str
    usernames: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, username: _Optional[str] = ..., usernames: _Optional[_Iterable[str]] = ...) -> None: ...
