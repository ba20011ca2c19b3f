"""Lists of mail addresses."""


def addresses(text: str) -> list[str]:
    """The addresses between the vertical bars."""
    return [address.strip() for address in text.split("|") if address.strip()]
