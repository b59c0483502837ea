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
    __slots__ = ("register", "login", "accounts_of", "complaints_about", "complain")
    REGISTER_FIELD_NUMBER: _ClassVar[int]
    LOGIN_FIELD_NUMBER: _ClassVar[int]
    ACCOUNTS_OF_FIELD_NUMBER: _ClassVar[int]
    COMPLAINTS_ABOUT_FIELD_NUMBER: _ClassVar[int]
    COMPLAIN_FIELD_NUMBER: _ClassVar[int]
    register: Credentials
    login: Credentials
    accounts_of: Peers
    complaints_about: Peers
    complain: Complaint
    def __init__(self, register: _Optional[_Union[Credentials, _Mapping]] = ..., login: _Optional[_Union[Credentials, _Mapping]] = ..., accounts_of: _Optional[_Union[Peers, _Mapping]] = ..., complaints_about: _Optional[_Union[Peers, _Mapping]] = ..., complain: _Optional[_Union[Complaint, _Mapping]] = ...) -> None: ...

class Complaint(_message.Message):
    __slots__ = ("peer", "task_id")
    PEER_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    peer: str
    task_id: str
    def __init__(self, peer: _Optional[str] = ..., task_id: _Optional[str] = ...) -> None: ...

class Peers(_message.Message):
    __slots__ = ("peers",)
    PEERS_FIELD_NUMBER: _ClassVar[int]
    peers: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, peers: _Optional[_Iterable[str]] = ...) -> None: ...

class AccountsAnswer(_message.Message):
    __slots__ = ("username", "usernames", "complaints")
    USERNAME_FIELD_NUMBER: _ClassVar[int]
    USERNAMES_FIELD_NUMBER: _ClassVar[int]
    COMPLAINTS_FIELD_NUMBER: _ClassVar[int]
    username: str
    usernames: _containers.RepeatedScalarFieldContainer[str]
    complaints: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, username: _Optional[str] = ..., usernames: _Optional[_Iterable[str]] = ..., complaints: _Optional[_Iterable[int]] = ...) -> None: ...
