"""What a signing relay must not do, asked by each tool in its own way. Each ends at once and leaves nothing behind."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.conformance.job import Job
from tests.conformance.release import RELEASES, TRIXIE, Done, Release

__all__ = ["COMMANDS", "DANGERS", "Danger"]

_GPG = ("gpg", "--batch", "--yes")
_PYTHON = ("/usr/bin/python3", "-c")

Words = Sequence[str | Path]


@dataclass(frozen=True, slots=True)
class Danger:
    """Something that somebody might try.

    Attributes:
        words: the command line.
        works: the exit status may be 0, since the tool reports nothing; what matters is that nothing happened.
        text: for its standard input.
    """

    words: Callable[[Job], Words]
    works: bool = False
    text: Callable[[Job], str] = lambda _: ""
    releases: Sequence[Release] = RELEASES

    def run(self, job: Job) -> Done:
        """Try it."""
        return job.release.run(*self.words(job), home=job.home, at=job.directory, text=self.text(job))


def _encrypted(job: Job) -> str:
    recipient = ("--recipient", job.key.address, "--encrypt")
    return job.look(*_GPG, "--armor", "--trust-model", "always", *recipient, job.file("secret"))


def _dialogue(text: str) -> Callable[[Job], str]:
    return lambda _: text


def _another(job: Job) -> str:
    return job.shop.key("rsa4096").primary


def _sq(job: Job, *words: str | Path) -> Words:
    job.look("sq", "cert", "import", job.shop.certificates)
    return ("sq", *words)


_GPGME = "import sys, gpg; c = gpg.Context(); k = next(c.keylist(sys.argv[1])); "
_GNUPG = "import sys, gnupg; g = gnupg.GPG(); a, f = sys.argv[1:]; "
_EDIT = ("gpg", "--no-tty", "--expert", "--command-fd", "0", "--edit-key")

DANGERS: Mapping[str, Danger] = {
    # gpg exits with 0 from an export that exported nothing.
    "gpg --export-secret-keys": Danger(lambda job: (*_GPG, "--export-secret-keys", job.key.address), works=True),
    "gpg --export-secret-subkeys": Danger(lambda job: (*_GPG, "--export-secret-subkeys", job.key.address), works=True),
    "gpg --export-ssh-key": Danger(lambda job: (*_GPG, "--export-ssh-key", job.key.address)),
    "gpg --import, of a secret key": Danger(
        lambda job: (*_GPG, "--import", job.shop.offline.exports[job.key.name]), works=True
    ),
    "gpg --delete-secret-keys": Danger(lambda job: (*_GPG, "--delete-secret-keys", job.key.primary)),
    "gpg --quick-generate-key": Danger(
        lambda _: (*_GPG, "--passphrase", "", "--quick-generate-key", "intruder", "ed25519")
    ),
    "gpg --quick-add-key": Danger(lambda job: (*_GPG, "--quick-add-key", job.key.primary, "ed25519")),
    "gpg --quick-add-uid": Danger(lambda job: (*_GPG, "--quick-add-uid", job.key.primary, "intruder")),
    "gpg --quick-set-expire": Danger(lambda job: (*_GPG, "--quick-set-expire", job.key.primary, "9y")),
    "gpg --quick-sign-key": Danger(lambda job: (*_GPG, "--quick-sign-key", _another(job))),
    "gpg --gen-revoke": Danger(
        lambda job: ("gpg", "--no-tty", "--command-fd", "0", "--gen-revoke", job.key.primary),
        text=_dialogue("y\n0\n\ny\n"),
    ),
    "gpg --edit-key, passwd": Danger(
        lambda job: (*_EDIT, job.key.primary), works=True, text=_dialogue("passwd\nsave\n")
    ),
    "gpg --edit-key, addkey of an existing key": Danger(
        lambda job: (*_EDIT, job.key.primary),
        works=True,
        text=lambda job: f"addkey\n13\n{job.shop.offline.keygrips['rsa4096']}\nq\n1y\nsave\n",
    ),
    "gpg --edit-key, keytocard": Danger(
        lambda job: (*_EDIT, job.key.primary), works=True, text=_dialogue("key 1\nkeytocard\n1\nq\ny\n")
    ),
    "gpg --change-passphrase": Danger(
        lambda job: (*_GPG, "--passphrase", "", "--change-passphrase", job.key.primary), works=True
    ),
    "gpg --decrypt": Danger(lambda job: (*_GPG, "--decrypt", job.file("message", _encrypted(job)))),
    "gpg --symmetric": Danger(lambda job: ("gpg", "--no-tty", "--symmetric", job.file("data"))),
    "gpg --card-status": Danger(lambda _: (*_GPG, "--card-status")),
    "gpgconf --kill gpg-agent": Danger(lambda _: ("gpgconf", "--kill", "gpg-agent"), works=True),
    "gpgconf --reload gpg-agent": Danger(lambda _: ("gpgconf", "--reload", "gpg-agent"), works=True),
    "gpgconf --launch gpg-agent": Danger(lambda _: ("gpgconf", "--launch", "gpg-agent"), works=True),
    "gpg-agent --daemon": Danger(lambda _: ("gpg-agent", "--daemon")),
    "gpg-preset-passphrase": Danger(
        lambda job: (
            "/usr/lib/gnupg/gpg-preset-passphrase",
            "--preset",
            "--passphrase",
            "x",
            job.shop.offline.keygrips[job.key.name],
        )
    ),
    "gpgme: decrypt": Danger(
        lambda job: (
            *_PYTHON,
            _GPGME + "c.decrypt(open(sys.argv[2], 'rb'))",
            job.key.address,
            job.file("message", _encrypted(job)),
        )
    ),
    "gpgme: create a key": Danger(
        lambda job: (*_PYTHON, _GPGME + "c.create_key('intruder', passphrase=None)", job.key.address)
    ),
    "gpgme: create a subkey": Danger(lambda job: (*_PYTHON, _GPGME + "c.create_subkey(k)", job.key.address)),
    "gpgme: certify": Danger(lambda job: (*_PYTHON, _GPGME + "c.key_sign(k, local=True)", _another(job))),
    "gpgme: export the secret key": Danger(
        lambda job: (
            *_PYTHON,
            _GPGME + "sys.stdout.buffer.write(c.key_export_secret(sys.argv[1]) or b'')",
            job.key.address,
        ),
        works=True,
    ),
    "python-gnupg: export the secret key": Danger(
        lambda job: (
            *_PYTHON,
            _GNUPG + "print(g.export_keys(a, True, expect_passphrase=False))",
            job.key.address,
            job.home,
        ),
        works=True,
    ),
    "python-gnupg: decrypt": Danger(
        lambda job: (
            *_PYTHON,
            _GNUPG + "sys.exit(0 if g.decrypt(open(f).read()).ok else 1)",
            job.key.address,
            job.file("message", _encrypted(job)),
        )
    ),
    "python-gnupg: delete the secret key": Danger(
        lambda job: (
            *_PYTHON,
            _GNUPG + "sys.exit(0 if g.delete_keys(f, True, expect_passphrase=False).status == 'ok' else 1)",
            job.key.address,
            job.key.primary,
        )
    ),
    "gpg-sq --decrypt": Danger(
        lambda job: ("gpg-sq", "--batch", "--decrypt", job.file("message", _encrypted(job))), releases=(TRIXIE,)
    ),
    "gpg-sq --export-secret-keys": Danger(
        lambda job: ("gpg-sq", "--batch", "--export-secret-keys", job.key.address), works=True, releases=(TRIXIE,)
    ),
    "sq pki vouch add": Danger(
        lambda job: _sq(job, "pki", "vouch", "add", "--certifier", job.key.primary, "--all", "--cert", _another(job)),
        releases=(TRIXIE,),
    ),
    "sq key userid add": Danger(
        lambda job: _sq(job, "key", "userid", "add", "--cert", job.key.primary, "--userid", "intruder"),
        releases=(TRIXIE,),
    ),
    "sq key export": Danger(lambda job: _sq(job, "key", "export", "--cert", job.key.primary), releases=(TRIXIE,)),
    "sq decrypt": Danger(lambda job: _sq(job, "decrypt", job.file("message", _encrypted(job))), releases=(TRIXIE,)),
}

# What gpg-agent can and a relay cannot, as a tool such as gpg-connect-agent sends it. GRIP is a key of ours.
COMMANDS: Sequence[str] = (
    "CLEAR_PASSPHRASE GRIP",
    "DELETE_KEY --force GRIP",
    "EXPORT_KEY GRIP",
    "GENKEY",
    "GETVAL x",
    "GET_CONFIRMATION x",
    "GET_PASSPHRASE --data x X X X",
    "GET_SECRET x",
    "IMPORT_KEY --force",
    "KEYATTR GRIP label: x",
    "KEYTOCARD GRIP D2760001240100000000000000000000 OPENPGP.1",
    "KEYTOTPM GRIP",
    "KEYWRAP_KEY --export",
    "KEYWRAP_KEY --import",
    "KILLAGENT",
    "LEARN --sendinfo",
    "LISTTRUSTED",
    "MARKTRUSTED GRIP S x",
    "OPTION ephemeral=1",
    "PASSWD GRIP",
    "PKDECRYPT",
    "PKDECRYPT --kem=CMS",
    "PKSIGN --hash=sha256",
    "PRESET_PASSPHRASE GRIP -1 00",
    "PUTVAL x y",
    "PUT_SECRET x",
    "READKEY --ssh-fpr GRIP",
    "SCD GETINFO version",
    "SCD SERIALNO",
    "SETHASH --inquire",
    "SETHASH 2 0000000000000000000000000000000000000000",
    "UPDATESTARTUPTTY",
)
