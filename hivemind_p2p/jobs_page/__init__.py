"""The jobs of one program as a page in the browser: states, every change of them, and what they print.

book       which jobs there are, and what is told of each
server     serves them to this machine's browser, under an address that only this program's user knows
static/    the page itself
"""
