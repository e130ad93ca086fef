"""The text whose ids are compared after every conversion.

It holds many scripts, emoji, digits, white space and code, so that a wrong rule for cutting text
before merging shows. It is in Unicode's form NFC, since some tokenizers normalise and llama.cpp
does not, and holds nothing that looks like a control token.
"""

# ruff: noqa: RUF001 -- look-alike characters are what this text is for

from __future__ import annotations

SAMPLE_LINES = (
    "Hello, World! It's a test; don't panic -- they'll say WE'RE fine, I'd bet you've seen it.",
    "I'M SHOUTING: YOU'LL SEE, THEY'VE GONE, HE'D SAY IT'S OK, CAN'T WE?",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. Straße, Maß, Äpfel.",
    "Où est la bibliothèque ? L'été, c'est déjà fini… « Ça va », dit-elle, à Noël.",
    "¿Dónde está el niño? ¡Mañana lloverá! São Paulo, coração, pão, Łódź, źdźbło.",
    "Příliš žluťoučký kůň úpěl ďábelské ódy.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю. Їжак, ґанок, ўсё.",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. Αθήνα, άλφα βήτα γάμμα.",
    "איך בלש תפס גמל רץ עז קצוות? שָׁלוֹם עוֹלָם",
    "صِف خَلقَ خَودِ كَمِثلِ الشَمسِ إِذ بَزَغَت — ١٢٣٤٥٦٧٨٩٠ و ۱۲۳",
    "नमस्ते दुनिया! मैं हिन्दी में लिखता हूँ। ১২৩ আমি বাংলায় গান গাই।",
    "தமிழ் மொழி மிகவும் பழமையானது. తెలుగు భాష. ಕನ್ನಡ. മലയാളം.",
    "สวัสดีชาวโลก ภาษาไทยไม่มีช่องว่างระหว่างคำ ๑๒๓ ສະບາຍດີ မင်္ဂလာပါ ជំរាបសួរ",
    "我能吞下玻璃而不伤身体。繁體中文測試，標點「符號」！２０２６年１１月２２日",
    "いろはにほへと ちりぬるを。カタカナ、漢字、ｶﾀｶﾅ、〜ー・。東京タワーは333メートル。",
    "키스의 고유조건은 입술끼리 만나야 하고 특별한 기술은 필요치 않다.",
    "ქართული ენა. Հայերեն լեզու. አማርኛ ቋንቋ። ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ. ᚠᛇᚻ᛫ᛒᛦᚦ",
    "Tiếng Việt: Nguyễn Thị Hồng, đường phố Hà Nội, chữ quốc ngữ. Türkçe: İstanbul, ığdır, şişe.",
    "😀😃🎉🚀 👩‍👩‍👧‍👦 👍🏽 🇩🇪🇯🇵 ❤️ ☕️ ✨🧪 1️⃣ 🏳️‍🌈",
    "0 1 12 123 1234 12345 123456789 3.14159 -273.15 1e-10 1,000,000 2^16=65536 50% #1 x2y3z",
    "½ ¾ ² ³ ₁₂ ⅷ Ⅻ ① ㊗ ٪ № ℃ Å µm ﬁ ﬂ",
    "α∈ℝ, ∑ᵢ xᵢ² ≥ 0 ⇒ ∀ε>0 ∃δ>0; ∫₀^∞ e^{-x} dx = 1 ≠ ∞ ± × ÷ √2 ≈ 1.414",
    "€ $ £ ¥ ₹ ₿ © ® ™ § ¶ † ‡ • – — ‘ ’ “ ” ‹ › ‰ ¬ ¦ ° ´ ` ~ ^ ¨",
    "a  b   c    d     e      f  two  three   spaces ",
    "\tone tab\t\ttwo tabs \t mixed \t\t ",
    "line one\nline two\n\nafter a blank line\n\n\nafter two\r\nwindows\r\n\r\nend\n",
    "   leading spaces\n    indented\n\n        more\n \n  \n   trailing   \n",
    "def f(x: int) -> list[str]:\n    return [str(i) for i in range(x) if i % 2 == 0]  # even\n",
    "for (int i = 0; i < n; ++i) { a[i] += b[i] * 0xFF; }  // \"C\" \\n \\t \\\\ 'q'\n",
    '{"key": ["value", 1.5, null, true], "path": "C:\\\\temp\\\\x", "url": "https://a.example/?q=1&r=2"}',
    '<div class="row"><h1>Title</h1><p>a &lt; b</p></div>\n<table><tr><td>1</td></tr></table>',
    "SELECT * FROM t WHERE a >= 10 AND b != 'x'; -- no\n$ ls -la | grep '^d' && echo \"$HOME\"",
    "!!! ??? ... ,,, ;;; ::: ((())) [[[]]] {{{}}} <<<>>> === +++ --- *** /// ||| &&& @@@ ###",
    "non\u00a0breaking, thin\u2009space, wide\u3000one, zero\u200bwidth, em\u2003one\u2028line",
    "camelCaseWordsAndSNAKE_CASE_words, kebab-case-words, ALLCAPS, mIxEd, e-mail@example.org",
    "supercalifragilisticexpialidocious antidisestablishmentarianism Donaudampfschifffahrt",
)

SAMPLE_TEXT = "\n".join(SAMPLE_LINES)
