"""URLs that must never be sent to, and what the names in them lead to: for registration and for delivery."""

from __future__ import annotations

PUBLIC = "93.184.215.14"
PUBLIC_IPV6 = "2606:2800:21f:cb07:6820:80da:af6b:8b2c"
# What names lead to in these tests.
NAMES = {
    "hooks.example.com": [PUBLIC, PUBLIC_IPV6],
    "xn--bcher-kva.example": [PUBLIC],
    "a.b-c.example.co": [PUBLIC_IPV6],
    "localtest.example": ["127.0.0.1"],
    "localtest6.example": ["::1"],
    "inside.example": ["10.1.2.3"],
    "inside6.example": ["fd12:3456::1"],
    "metadata.example": ["169.254.169.254"],
    "metadata6.example": ["fd00:ec2::254"],
    "mapped.example": ["::ffff:10.0.0.1"],
    "mixed.example": [PUBLIC, "192.168.1.1"],
    "mixed6.example": [PUBLIC, "::1"],
    "any.example": ["0.0.0.0"],  # noqa: S104
    "nowhere.example": [],
}

HOSTILE = [
    # Loopback, in every spelling.
    "https://127.0.0.1/", "https://127.0.0.1:443/", "https://127.255.255.254/", "https://127.1/",
    "https://127.0.1/", "https://2130706433/", "https://0x7f000001/", "https://0x7f.1/",
    "https://0x7f.0x0.0x0.0x1/", "https://0177.0.0.1/", "https://0177.1/", "https://017700000001/",
    "https://127.0.0.01/", "https://127.0.0.1./", "https://00000177.0.0.1/", "https://4294967297/",
    "https://340282366920938463463374607431768211456/", "https://[::1]/", "https://[0:0:0:0:0:0:0:1]/",
    "https://[::0001]/", "https://0x/", "https://1.2.3.0x/", "https://localhost/", "https://LOCALHOST/",
    "https://localhost./", "https://a.localhost/", "https://localtest.example/",
    "https://localtest6.example/",
    # Nowhere, everywhere, many, nobody.
    "https://0.0.0.0/", "https://0/", "https://0.0.0.0:443/", "https://[::]/", "https://any.example/",
    "https://255.255.255.255/", "https://224.0.0.1/", "https://239.1.1.1/", "https://240.0.0.1/",
    "https://[ff02::1]/",
    # Private, shared, link-local, documentation.
    "https://10.0.0.1/", "https://172.16.0.1/", "https://172.31.255.255/", "https://192.168.0.1/",
    "https://100.64.0.1/", "https://169.254.1.1/", "https://198.18.0.1/", "https://192.0.2.1/",
    "https://203.0.113.9/", "https://[fc00::1]/", "https://[fd12:3456::1]/", "https://[fe80::1]/",
    "https://[fe80::1%25eth0]/", "https://[fe80::1%eth0]/", "https://[fec0::1]/", "https://[2001:db8::1]/",
    "https://[3fff::1]/", "https://[5f00::1]/", "https://[100::1]/", "https://inside.example/",
    "https://inside6.example/",
    # Metadata services.
    "https://169.254.169.254/latest/meta-data/", "https://2852039166/", "https://0xa9fea9fe/",
    "https://0251.0376.0251.0376/", "https://169.254.43518/", "https://[fd00:ec2::254]/",
    "https://metadata.google.internal/", "https://metadata/", "https://100.100.100.200/",
    "https://192.0.0.192/", "https://168.63.129.16/", "https://metadata.example/",
    "https://metadata6.example/", "https://169.254.169.254.nip.internal/",
    # IPv4 inside IPv6: mapped, compatible, translated, 6to4, Teredo.
    "https://[::ffff:127.0.0.1]/", "https://[::ffff:7f00:1]/", "https://[::ffff:169.254.169.254]/",
    "https://[::127.0.0.1]/", "https://[::7f00:1]/", "https://[64:ff9b::127.0.0.1]/",
    "https://[64:ff9b::a9fe:a9fe]/", "https://[64:ff9b:1::7f00:1]/", "https://[2002:7f00:1::]/",
    "https://[2002:a9fe:a9fe::1]/", "https://[2001:0:7f00:1::]/", "https://mapped.example/",
    "https://[::ffff:93.184.215.14]/",
    # One private address among public ones; none.
    "https://mixed.example/", "https://mixed6.example/", "https://nowhere.example/",
    # Userinfo.
    "https://good.example@127.0.0.1/", "https://user:password@hooks.example.com/",
    "https://@hooks.example.com/", "https://hooks.example.com#@127.0.0.1/",
    "https://127.0.0.1#@hooks.example.com/", "https://hooks.example.com?@127.0.0.1#/",
    "https://hooks.example.com\\@127.0.0.1/", "https://127.0.0.1\\@hooks.example.com/",
    "https://127.0.0.1%40hooks.example.com/", "https://hooks.example.com%2f@127.0.0.1/",
    "https://a@b@127.0.0.1/", "https://hooks.example.com:@127.0.0.1/",
    # What one parser skips and another reads.
    "https:\\\\127.0.0.1/", "https:/\\127.0.0.1/", "https:/127.0.0.1/", "https:127.0.0.1",
    "https:///127.0.0.1/", "https:////127.0.0.1/", " https://hooks.example.com/",
    "https://hooks.example.com/ ", "https://hooks.example.com /", "https://hooks .example.com/",
    "https://hooks.example.com\t/", "ht\ntps://hooks.example.com/", "https://hooks.exam\r\nple.com/",
    "https://hooks.example.com/\r\nHost: inside", "https://hooks.example.com/\x00",
    "\x00https://hooks.example.com/", "https://hooks.example.com\x00.inside/",
    "https://hooks.example.com\x7f/", "https://hooks.example.com/%", "https://hooks.example.com/%0",
    "https://hooks.example.com/%zz", "https://hooks.example.com/a\\b", "https://hooks.example.com/<x>",
    'https://hooks.example.com/"', "https://hooks.example.com/{x}", "https://hooks.example.com/x|y",
    "https://hooks.example.com/\n",
    # Letters and digits that look like others, and dots that are none.
    "https://\uff11\uff12\uff17.0.0.1/", "https://\u2460\u2461\u2466.0.0.1/",
    "https://127\u30020\u30020\u30021/", "https://127.0.0\uff0e1/",
    "https://\u24db\u24de\u24d2\u24d0\u24db\u24d7\u24de\u24e2\u24e3/", "https://b\u00fccher.example/",
    "https://hooks.example.com/\u00fc", "https://ex\u00adample.com/", "https://\u0661\u0662\u0667.0.0.1/",
    "https://hooks.example.com\uff0f@127.0.0.1/", "\uff48ttps://127.0.0.1/",
    "https://hooks\u2024example.com/", "https://\u202ehooks.example.com/",
    # Hosts that are no names.
    "https://", "https:///", "https:///hooks", "https://?x", "https://:443/", "https://./", "https://../",
    "https://hooks..example.com/", "https://.example.com/", "https://hooks.example.com./",
    "https://-hooks.example.com/", "https://hooks-.example.com/", "https://hooks_1.example.com/",
    "https://*.example.com/", "https://%31%32%37.0.0.1/", "https://intranet/", "https://printer.local/",
    "https://db.internal/", "https://router.lan/", "https://x.home.arpa/", "https://x.onion/", "https://[]/",
    "https://[::1/", "https://::1/", "https://[127.0.0.1]/", "https://[::1]x/",
    "https://[hooks.example.com]/", "https://[v1.fe80]/", "https://256.1.1.1/", "https://1.2.3/",
    "https://1.2.3.4.5/", "https://" + "a" * 64 + ".example/", "https://" + "a." * 126 + "example/",
    # Ports and schemes.
    "https://hooks.example.com:22/", "https://hooks.example.com:6379/", "https://hooks.example.com:8443/",
    "https://hooks.example.com:0/", "https://hooks.example.com:65536/",
    "https://hooks.example.com:99999999/", "https://hooks.example.com:/", "https://hooks.example.com:-1/",
    "https://hooks.example.com:+443/", "https://hooks.example.com:443a/",
    "https://hooks.example.com:\uff14\uff14\uff13/", "https://hooks.example.com:443:443/",
    "http://hooks.example.com/", "HTTP://hooks.example.com/", "ftp://hooks.example.com/",
    "file:///etc/passwd", "gopher://127.0.0.1:6379/_FLUSHALL", "dict://127.0.0.1:6379/",
    "javascript:alert(1)", "data:text/plain,x", "unix:///var/run/docker.sock", "ws://hooks.example.com/",
    "//hooks.example.com/", "hooks.example.com", "/hooks", "", "x", "https", "://hooks.example.com",
    "httpss://hooks.example.com/", "https://hooks.example.com/#fragment", "https://hooks.example.com/#",
    "https://hooks.example.com/" + "x" * (2_049 - 26),
]  # fmt: skip
