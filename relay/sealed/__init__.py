"""OpenPGP signatures over RPMs and files from a program of one's own: no gpg, no rpm, and nobody sees the content.

    with open_asker(load_config(config_path())) as asker:
        key = asker.choose(KeyWanted(key_type="modern", distribution="el10"))
        way = Way(key, hash_algorithm(key, None), "el10")
        Batch(asker, way, print).sign_rpms([Path("hello.rpm")])

`open_sealer` is for programs that run trio:

    async with open_sealer(load_config(config_path())) as sealer:
        key = await sealer.choose(KeyWanted(key_type="modern", distribution="el10"))
        sealed = await sealer.seal(key, state_of(content, HashAlgorithm.SHA256), "el10")
        Path("repomd.xml.asc").write_text(sealed.seal.armored)
"""
