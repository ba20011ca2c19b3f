"""Prints the `.env` of a new installation, with fresh random keys."""

from secrets import token_urlsafe

from cryptography.fernet import Fernet

if __name__ == "__main__":
    print("# Read by queryexport/settings.py. .env.example explains every variable.")
    print("DEBUG=true")
    print(f"SECRET_KEY={token_urlsafe(50)}")
    print(f"FIELD_ENCRYPTION_KEYS={Fernet.generate_key().decode()}")
