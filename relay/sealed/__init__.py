"""OpenPGP signatures over RPMs and files from a program of one's own: no gpg, no rpm, and nobody sees the content.

    async with open_sealer(load_config(config_path())) as sealer:
        key = await sealer.choose(KeyWanted(key_type="modern", distribution="el10"))
        sealed = await sealer.seal(key, state_of(content, HashAlgorithm.SHA256), "el10")
        Path("repomd.xml.asc").write_text(sealed.seal.armored)

`Batch` does the same with many files at once, and puts signatures into RPMs.
"""
