"""The torture messages of RFC 4475, written from what the RFC says of each.

What is asked here is only what sockets must decide: is it a message, and where does it end? Much that the RFC
calls invalid (dates, escapes, unknown schemes, what an element understands) is for whoever gets the message.
"""

from __future__ import annotations

import pytest
import sipmessage

from keepalive.sip.core.framer import Framer
from keepalive.sip.core.head import Flaw, Head, parse_head
from keepalive.sip.messages import Parser

COMMON = (
    "To: sip:j.user@example.com\r\nFrom: sip:caller@example.net;tag=134161461246\r\nMax-Forwards: 7\r\n"
    "Call-ID: {name}.0ha0isndaksdjasdf3234nas\r\nCSeq: 8 {method}\r\n"
    "Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKkdjuw\r\n"
)


def plain(
    name: str, first: str, *more: str, method: str | None = None, length: str | None = "0", body: str = ""
) -> bytes:
    """Write a message that is as usual but for its first line and some fields."""
    fields = COMMON.format(name=name, method=method or first.split()[0])
    lines = "".join(f"{line}\r\n" for line in more)
    end = "" if length is None else f"Content-Length: {length}\r\n"
    return f"{first}\r\n{fields}{lines}{end}\r\n{body}".encode()


# 3.1.1.1: folded lines, blanks before colons, odd letters, an empty Subject, header fields nobody knows.
TORTUOUS = (
    b"INVITE sip:vivekg@chair-dnrc.example.com;unknownparam SIP/2.0\r\n"
    b"TO :\r\n sip:vivekg@chair-dnrc.example.com ;   tag    = 1918181833n\r\n"
    b'from   : "J Rosenberg \\\\\\""       <sip:jdrosen@example.com>\r\n  ;\r\n  tag = 98asjd8\r\n'
    b"MaX-fOrWaRdS: 0068\r\nCall-ID: wsinv.ndaksdj@192.0.2.1\r\nContent-Length   : 10\r\n"
    b"cseq: 0009\r\n  INVITE\r\nVia  : SIP  /   2.0\r\n /UDP\r\n    192.0.2.2;branch=390skdjuw\r\ns :\r\n"
    b"NewFangledHeader:   newfangled value\r\n continued newfangled value\r\n"
    b"UnknownHeaderWithUnusualValue: ;;,,;;,;\r\nContent-Type: application/sdp\r\n"
    b"Route:\r\n <sip:services.example.com;lr;unknownwith=value;unknown-no-value>\r\n"
    b"v:  SIP  / 2.0  / TCP     spindle.example.com   ;\r\n  branch  =   z9hG4bK9ikj8  ,\r\n"
    b" SIP  /    2.0   / UDP  192.168.255.111   ; branch=\r\n z9hG4bK30239\r\n"
    b'm:"Quoted string \\"\\"" <sip:jdrosen@example.com> ; newparam =\r\n      newvalue ;\r\n'
    b"  secondparam ; q = 0.33\r\n\r\nv=0\r\no=m\r\n"
)

ALL_CHARACTERS = (
    "!interesting-Method0123456789_*+`.%indeed'~ sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*"
    ":&it+has=1,weird!*pas$wo~d_too.(doesn't-it)@example.com SIP/2.0"
)
UNICODE_REASON = "SIP/2.0 200 = 2**3 * 5**2 но сто девяносто девять - простое"

VALID = {
    "intmeth": plain(
        "intmeth",
        ALL_CHARACTERS,
        "extensionHeader-!.%*+_`'~:\ufeff大停電",
        method="!interesting-Method0123456789_*+`.%indeed'~",
    ),
    "esc01": plain("esc01", "INVITE sip:sips%3Auser%40example.com@example.net SIP/2.0"),
    "escnull": plain("escnull", "REGISTER sip:example.com SIP/2.0", "Contact: <sip:%00@host5.example.com>"),
    "esc02": plain("esc02", "RE%47IST%45R sip:registrar.example.com SIP/2.0", 'Contact: "%Z%45" <sip:a@b>'),
    "lwsdisp": plain(
        "lwsdisp", "OPTIONS sip:user@example.com SIP/2.0", "Contact: caller<sip:caller@example.com>"
    ),
    "longreq": plain(
        "longreq",
        "INVITE sip:user@example.com SIP/2.0",
        *(f"Via: SIP/2.0/TCP sip{n}.example.com" for n in range(33, 0, -1)),
        "x" * 100 + ": " + "long" * 100,
    ),
    "semiuri": plain("semiuri", "OPTIONS sip:user;par=u%40example.net@example.com SIP/2.0"),
    "transports": plain(
        "transports",
        "OPTIONS sip:user@example.com SIP/2.0",
        *(f"Via: SIP/2.0/{t} t{t}.example.com" for t in ("SCTP", "TLS", "UNKNOWN", "TCP")),
    ),
    "mpart01": plain(
        "mpart01",
        "MESSAGE sip:kumiko@example.org SIP/2.0",
        "Content-Type: multipart/mixed;boundary=7a9c",
        length="12",
        body="\0\r\n\r\n--7a9c\n",
    ),
    "unreason": plain("unreason", UNICODE_REASON, method="INVITE"),
    "noreason": plain("noreason", "SIP/2.0 100 ", method="INVITE"),
    # 3.1.2: broken, but not in what sockets look at.
    "badinv01": plain(
        "badinv01",
        "INVITE sip:user@example.com SIP/2.0",
        'Contact: "Joe" <sip:joe@example.org>;;;;',
        "Via: SIP/2.0/UDP 192.0.2.15;;,;,,",
    ),
    "scalar02": plain("scalar02", "REGISTER sip:example.com SIP/2.0", "Expires: 1000000000000000000000"),
    "ltgtruri": plain("ltgtruri", "INVITE <sip:user@example.com> SIP/2.0"),
    "escruri": plain("escruri", "INVITE sip:user@example.com?Route=%3Csip:example.com%3E SIP/2.0"),
    "baddate": plain("baddate", "INVITE sip:user@example.com SIP/2.0", "Date: Fri, 01 Jan 2010 16:00:00 EST"),
    "regbadct": plain(
        "regbadct", "REGISTER sip:example.com SIP/2.0", "Contact: sip:user@example.com?Route=%3Csip:e%3E"
    ),
    "badaspec": plain(
        "badaspec",
        "OPTIONS sip:user@example.org SIP/2.0",
        'Contact: "Bell, Alexander" <sip:a.g.bell@bell-tel.com>',
    ),
    "baddn": plain(
        "baddn",
        "OPTIONS sip:t.watson@example.org SIP/2.0",
        "Contact: Bell, Alexander <sip:a.g.bell@bell-tel.com>;tag=43",
    ),
    # 3.2 and 3.3
    "badbranch": plain("badbranch", "OPTIONS sip:user@example.com SIP/2.0").replace(
        b"z9hG4bKkdjuw", b"z9hG4bK"
    ),
    "unkscm": plain("unkscm", "OPTIONS nobodyKnowsThisScheme:totallyopaquecontent SIP/2.0"),
    "novelsc": plain("novelsc", "OPTIONS soap.beep://192.0.2.103:3002 SIP/2.0"),
    "bext01": plain(
        "bext01",
        "OPTIONS sip:user@example.com SIP/2.0",
        "Require: nothingSupportsThis",
        "Proxy-Require: noProxiesSupportThis",
    ),
    "inv2543": plain("inv2543", "INVITE sip:user@example.com SIP/2.0").replace(b";branch=z9hG4bKkdjuw", b""),
    "zeromf": plain("zeromf", "OPTIONS sip:user@example.com SIP/2.0").replace(
        b"Max-Forwards: 7", b"Max-Forwards: 0"
    ),
    "unksm2": plain("unksm2", "REGISTER sip:example.com SIP/2.0", "Contact: <name:John_Smith>"),
    "invut": plain(
        "invut",
        "INVITE sip:user@example.com SIP/2.0",
        "Content-Type: application/unknownformat",
        length="5",
        body="<a/>\n",
    ),
    "regaut01": plain(
        "regaut01", "REGISTER sip:example.com SIP/2.0", "Authorization: NoOneKnowsThisScheme a=b"
    ),
    "bcast": plain("bcast", "SIP/2.0 200 OK", method="INVITE").replace(
        b"Via: SIP/2.0/UDP 192.0.2.1;",
        b"Via: SIP/2.0/UDP 192.0.2.198;branch=z9hG4bK1324923\r\nVia: SIP/2.0/UDP 255.255.255.255;",
    ),
    "cparam02": plain(
        "cparam02",
        "REGISTER sip:example.com SIP/2.0",
        "Contact: <sip:+19725552222@gw1.example.net;unknownparam>",
    ),
    "regescrt": plain(
        "regescrt",
        "REGISTER sip:example.com SIP/2.0",
        "Contact: <sip:user@example.com?Route=%3Csip:sip.example.com%3E>",
    ),
    "sdp01": plain(
        "sdp01",
        "INVITE sip:user@example.com SIP/2.0",
        "Accept: text/nobodyKnowsThis",
        "Content-Type: application/sdp",
    ),
    "cparam01": plain(
        "cparam01",
        "REGISTER sip:example.com SIP/2.0",
        "Contact: sip:+19725552222@gw1.example.net;unknownparam",
    ),
}

INVALID = {
    "ncl": (plain("ncl", "INVITE sip:user@example.com SIP/2.0", length="-999"), "content-length"),
    "nolength": (plain("nolength", "INVITE sip:user@example.com SIP/2.0", length=None), "no content-length"),
    "quotbal": (
        plain("quotbal", "INVITE sip:user@example.com SIP/2.0").replace(b"To: ", b'To: "Mr. J. User <'),
        "quote",
    ),
    "lwsruri": (plain("lwsruri", "INVITE sip:user@example.com; lr SIP/2.0"), "start line"),
    "lwsstart": (plain("lwsstart", "INVITE  sip:user@example.com  SIP/2.0"), "start line"),
    "trws": (plain("trws", "OPTIONS sip:remote-target@example.com SIP/2.0  "), "start line"),
    "badvers": (plain("badvers", "OPTIONS sip:t.watson@example.org SIP/7.0"), "start line"),
    "mismatch01": (plain("mismatch01", "OPTIONS sip:user@example.com SIP/2.0", method="INVITE"), "cseq"),
    "mismatch02": (plain("mismatch02", "NEWMETHOD sip:user@example.com SIP/2.0", method="INVITE"), "cseq"),
    "bigcode": (
        plain("bigcode", "SIP/2.0 4294967301 better not break the receiver", method="INVITE"),
        "start line",
    ),
    "scalarlg": (
        plain("scalarlg", "SIP/2.0 503 Service Unavailable", length="9" * 40, method="INVITE"),
        "body too big",
    ),
    "multi01": (
        plain("multi01", "INVITE sip:user@company.com SIP/2.0", "CSeq: 59 INVITE"),
        "conflicting cseq",
    ),
    "insuf": (b"INVITE sip:user@example.com SIP/2.0\r\nCSeq: 193942 INVITE\r\nl: 0\r\n\r\n", "call-id"),
    "mcl01": (
        plain("mcl01", "OPTIONS sip:user@example.com SIP/2.0", "Content-Length: 5"),
        "conflicting content-length",
    ),
}

# What the library's grammar of URIs leaves out; raw mode delivers these too.
UNREPRESENTED = {"ltgtruri", "escruri", "unkscm", "novelsc"}


@pytest.mark.parametrize("name", VALID)
def test_valid_ones_come_through_whole(name: str) -> None:
    message = VALID[name]
    framer = Framer(16384, 65536)
    found = [*framer.feed(message + message[:-1]), *framer.feed(message[-1:])]
    assert [head.raw for head in found] == [message, message], framer.flaw
    parse = Parser()
    if name in UNREPRESENTED:
        with pytest.raises(ValueError, match="not valid"):
            parse(found[0])
    else:
        parsed = parse(found[0])
        assert isinstance(parsed, (sipmessage.Request, sipmessage.Response))
        assert parsed.body == message.partition(b"\r\n\r\n")[2]


LOST = {"content-length", "no content-length", "body too big", "conflicting content-length"}


@pytest.mark.parametrize("name", INVALID)
def test_only_lost_framing_ends_the_stream(name: str) -> None:
    message, flaw = INVALID[name]
    good = VALID["noreason"]
    framer = Framer(16384, 65536)
    found = [(head.raw, head.flaw) for head in framer.feed(good + message + good)]
    if flaw in LOST:
        assert found == [(good, "")]
        assert framer.flaw is not None
        assert framer.flaw.reason == flaw
    else:
        assert found == [(good, ""), (message, flaw), (good, "")]
        assert framer.flaw is None


def test_short_tortuous_invite() -> None:
    """Valid, the blanks before the colon of Content-Length too (RFC 3261 7.3.1)."""
    header = TORTUOUS.partition(b"\r\n\r\n")[0] + b"\r\n"
    head = parse_head(header)
    assert (head.method, head.length, head.flaw) == (b"INVITE", 10, "")
    assert head.key.startswith(b"390skdjuw 192.0.2.2 INVITE ")
    head.raw = TORTUOUS
    parsed = Parser()(head)
    assert isinstance(parsed, sipmessage.Request)
    assert parsed.cseq.sequence == 9
    assert parsed.content_length == len(parsed.body) == 10
    assert parsed.headers["NewFangledHeader"] == "newfangled value continued newfangled value"
    assert parsed.subject == ""
    assert [head.raw for head in framed(TORTUOUS)] == [TORTUOUS]


def framed(stream: bytes) -> list[Head]:
    return list(Framer(16384, 65536).feed(stream))


def test_length_that_says_more_than_there_is() -> None:
    """3.1.2.2, clerr: on a stream the rest is waited for; of a datagram it is missing."""
    assert framed(plain("clerr", "INVITE sip:user@example.com SIP/2.0", length="9999")) == []


def test_no_octet_at_the_start_makes_it_crash() -> None:
    for octet in range(256):
        for message in (VALID["intmeth"], TORTUOUS):
            try:
                parse_head(bytes([octet]) + message.partition(b"\r\n\r\n")[0] + b"\r\n")
            except Flaw:
                pass
