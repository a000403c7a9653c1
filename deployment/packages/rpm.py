"""An RPM from a staged tree.

The spec names paths and scriptlets itself and uses no distribution's macros: Debian's rpmbuild and EL's make the same.
"""

import os
import subprocess
from pathlib import Path

from deployment.packages.contents import Package
from deployment.packages.sources import epoch

__all__ = ["build", "spec"]


def build(package: Package, scratch: Path, output: Path) -> Path:
    """Make NAME-VERSION-1.ARCHITECTURE.rpm in `output`.

    Raises:
        subprocess.CalledProcessError: rpmbuild refuses; it has said why.
    """
    file = scratch / f"{package.name}.spec"
    file.write_text(spec(package))
    architecture = "noarch" if package.is_portable else os.uname().machine
    command = ["rpmbuild", "-bb", "--quiet", "--target", architecture]
    for name, value in {
        "_topdir": str(scratch / "rpmbuild"),
        "_rpmdir": str(output),
        "_build_name_fmt": "%%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm",
        "staged": str(package.tree),
        "_binary_payload": "w6.zstdio",  # the default takes minutes for a tenth less
    }.items():
        command += ["--define", f"{name} {value}"]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch())}
    subprocess.run([*command, str(file)], env=environment, check=True)
    return output / f"{package.name}-{package.version}-1.{architecture}.rpm"


def spec(package: Package) -> str:
    """The spec file."""
    lines = [
        f"Name: {package.name}",
        f"Version: {package.version}",
        "Release: 1",
        f"Summary: {package.summary}",
        "License: Apache-2.0",
        *(["BuildArch: noarch"] if package.is_portable else []),
        # What is needed is named here: rpm's own search would find the wheels' bundled libraries.
        "AutoReqProv: no",
        *(f"Requires: {one}" for one in package.requires),
        *(f"Recommends: {one}" for one in package.recommends),
        # The tree is finished: nothing shall be stripped, compiled or compressed once more.
        "%global __os_install_post %{nil}",
        "%global debug_package %{nil}",
        "%global _build_id_links none",
        "%description",
        package.description,
        "%install",
        'mkdir -p "$RPM_BUILD_ROOT"',
        'cp -a %{staged}/. "$RPM_BUILD_ROOT"',
    ]
    return "\n".join([*lines, *_scriptlets(package), "%files", "%defattr(-,root,root,-)", *_files(package)]) + "\n"


def _scriptlets(package: Package) -> list[str]:
    if not package.units:
        return []
    # rpm passes how many versions will be there: 1 for the first, 2 during an upgrade, 0 after the last.
    return [
        "%post",
        'first=\n[ "$1" -gt 1 ] || first=yes',
        package.scriptlet("configure").rstrip(),
        "%preun",
        f'if [ "$1" = 0 ]; then\n{package.scriptlet("remove")}fi',
        "%postun",
        f'if [ "$1" = 0 ]; then\n{package.scriptlet("removed")}{package.scriptlet("kept")}fi',
    ]


def _files(package: Package) -> list[str]:
    listed = []
    own = f"/usr/lib/{package.name}"
    # What is below /usr/share/doc is one package's alone, and so goes with it, directories too.
    documents = "/usr/share/doc/"
    for path in sorted(package.tree.rglob("*")):
        place = f"/{path.relative_to(package.tree)}"
        if path.is_dir() and not path.is_symlink():
            if place in {own, f"/etc/{package.name}"} or place.startswith(documents):
                listed.append(f'%dir "{place}"' if place != own else f'"{place}"')
        elif place in package.configuration:
            listed.append(f'%config(noreplace) "{place}"')
        elif not place.startswith(f"{own}/"):
            listed.append(f'"{place}"')
    return listed
