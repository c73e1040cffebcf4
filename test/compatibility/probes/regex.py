# /// script
# dependencies = ["regex"]
# ///
import regex


def f(event):
    assert regex.findall(r'\p{Lu}\w+', 'Äpfel und Birnen') == ['Äpfel', 'Birnen']
    assert regex.search(r'(?:cats){e<=1}', 'the cuts')
    return 'Unicode classes, fuzzy match'
