"""Keys, peer ids and signatures."""

import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.errors import IdentityError
from hivemind_p2p.identity import Identity, public_key_of, verify
from hivemind_p2p.types import PeerId

ME = Identity(bytes(range(32)))
OTHER = Identity(bytes(32))


def test_the_peer_id_is_libp2ps():
    # From libp2p itself, whose format this is.
    from libp2p.crypto.ed25519 import create_new_key_pair
    from libp2p.peer.id import ID

    theirs = ID.from_pubkey(create_new_key_pair(ME.seed).public_key)
    assert str(theirs) == ME.peer_id
    assert ME.peer_id.startswith("12D3KooW")


def test_a_peer_id_holds_the_public_key():
    assert public_key_of(ME.peer_id) == ME.public_key


@given(st.text(max_size=80))
def test_any_text_is_a_peer_id_or_an_identity_error(text):
    with pytest.raises(IdentityError):
        public_key_of(PeerId(text))


def test_a_very_long_peer_id_is_refused_before_it_is_decoded():
    with pytest.raises(IdentityError, match="too long"):
        public_key_of(PeerId("1" * 1_000_000))


@given(st.binary(max_size=100), st.text(max_size=20))
def test_signatures_hold_for_one_body_one_domain_and_one_signer(body, domain):
    signature = ME.sign(domain, body)
    assert verify(ME.peer_id, domain, body, signature)
    assert not verify(OTHER.peer_id, domain, body, signature)
    assert not verify(ME.peer_id, domain + "x", body, signature)
    assert not verify(ME.peer_id, domain, body + b"x", signature)


def test_domain_and_body_cannot_be_shifted_into_each_other():
    assert not verify(ME.peer_id, "voucher", b"x", ME.sign("vouche", b"rx"))


@given(st.binary(max_size=80), st.text(max_size=60))
def test_nonsense_never_verifies_and_never_raises(signature, signer):
    assert not verify(PeerId(signer), "domain", b"body", signature)
    assert not verify(ME.peer_id, "domain", b"body", signature)


def test_a_key_file_is_made_once_with_mode_0600(tmp_path):
    path = tmp_path / "deep" / "identity.key"
    before = os.umask(0)
    try:
        made = Identity.load_or_create(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Identity.load_or_create(path).peer_id == made.peer_id


@pytest.mark.parametrize("text", ["", "no key", "00" * 31, "00" * 33, "\xff\xfe"])
def test_what_is_no_key_file(tmp_path, text):
    path = tmp_path / "identity.key"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(IdentityError):
        Identity.load_or_create(path)
    assert path.read_text(encoding="latin-1") == text


def test_a_folder_instead_of_a_key(tmp_path):
    with pytest.raises(IdentityError, match="cannot read"):
        Identity.load_or_create(tmp_path)


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(IdentityError, match=r"cannot (read|write)"):
        Identity.load_or_create(tmp_path / "file" / "identity.key")


def test_the_secret_is_not_shown():
    assert ME.seed.hex() not in repr(ME)
    assert ME.peer_id in repr(ME)


def test_generated_identities_differ():
    assert Identity.generate().peer_id != Identity.generate().peer_id
