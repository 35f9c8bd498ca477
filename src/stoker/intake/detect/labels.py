"""What fields are called in forms, files and tables of some twenty languages, by kind. Typed in by hand.

See docs/design/detect.md, "Labels". A label is in lower case, with single blanks between its words.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from stoker.spec.kinds import Kind


def _labels(text: str) -> tuple[str, ...]:
    return tuple(" ".join(label.split()) for label in text.split("|"))


LABELS: Final[Mapping[Kind, tuple[str, ...]]] = MappingProxyType({
    Kind.PERSON: _labels(
        "name | full name | first name | last name | middle name | given name | family name | surname| "
        "maiden name | display name | contact name | contact person | patient | patient name| customer name "
        "| client name | employee name | holder | account holder | cardholder| cardholder name | card holder "
        "| beneficiary | recipient | addressee | applicant | tenant | guardian| vorname | nachname | "
        "familienname | geburtsname | ansprechpartner | kontoinhaber | inhaber| versicherter | patientenname "
        "| kundenname | empfänger| nom | prénom | prenom | nom de famille | nom complet | nom et prénom | "
        "titulaire | bénéficiaire| destinataire| nombre | nombre completo | nombre y apellidos | apellido | "
        "apellidos | titular | destinatario| nome | nome completo | cognome | nominativo | nome e cognome | "
        "intestatario | apelido | sobrenome| naam | voornaam | achternaam | volledige naam | contactpersoon| "
        "imię | imie | nazwisko | imię i nazwisko | imie i nazwisko| namn | förnamn | efternamn | "
        "fullständigt namn | kontaktperson| navn | fornavn | efternavn | etternavn | fulde navn| nimi | "
        "etunimi | sukunimi | koko nimi| jméno | příjmení | jméno a příjmení | meno | priezvisko | név | "
        "vezetéknév | keresztnév | teljes név| nume | prenume | nume complet | numele | ad | soyad | adı "
        "soyadı | ad soyad | isim| ime | prezime | ime i prezime | priimek"
    ),
    Kind.STREET_ADDRESS: _labels(
        "address | street | street address | home address | postal address | mailing address| billing "
        "address | shipping address | delivery address | residential address | address line 1| residence | "
        "anschrift | adresse | straße | strasse | wohnort | wohnhaft | postanschrift| rue | adresse postale "
        "| domicile | dirección | direccion | domicilio | calle| indirizzo | residenza | via | adres | "
        "straat | woonadres | postadres | adres zamieszkania | ulica| morada | endereço | endereco | rua | "
        "adress | gatuadress | bostadsadress| osoite | katuosoite | gade | vej | bopæl | adresa | ulice | "
        "bydliště | lakcím | cím | utca| adresă | strada | adresi | sokak | adresa stanovanja"
    ),
    Kind.POSTCODE: _labels(
        "zip | zip code | zipcode | postcode | post code | postal code | postalcode | postal | plz| "
        "postleitzahl | code postal | cp | código postal | codigo postal | cap| codice postale | codice "
        "avviamento postale | kod pocztowy | cep | postnummer | postnr| postinumero | psč | irányítószám | "
        "cod poștal | cod postal | posta kodu | poštni broj| poštanski broj | poštna številka | eircode | "
        "pin code | pincode"
    ),
    Kind.PHONE: _labels(
        "phone | telephone | tel | phone number | telephone number | mobile | mobile number | cell| cell "
        "phone | cellphone | home phone | work phone | fax | contact number | whatsapp| telefon | "
        "telefonnummer | handy | handynummer | mobil | mobilnummer | mobiltelefon | rufnummer| téléphone | "
        "numéro de téléphone | portable | mobile| teléfono | telefono | número de teléfono | móvil | movil | "
        "celular| cellulare | numero di telefono | recapito | telefoon | telefoonnummer | mobiel| numer "
        "telefonu | komórka | nr telefonu | telefone | telemóvel | telemovel| telefonnr | mobilnr | tlf | "
        "puhelin | puhelinnumero | matkapuhelin | telefonszám | telefonní číslo| telefón | telefonszam | "
        "număr de telefon | cep telefonu | broj telefona"
    ),
    Kind.BIRTH_DATE: _labels(
        "date of birth | birth date | birthdate | birthday | born | dob | geburtsdatum | geboren | geboren "
        "am| geburtstag | date de naissance | né le | née le | naissance | fecha de nacimiento | nacimiento| "
        "data di nascita | nato il | nata il | geboortedatum | geboren op | data urodzenia | urodzony| "
        "urodzona | data de nascimento | nascimento | nascido em | födelsedatum | född | fødselsdato | født| "
        "syntymäaika | datum narození | narozen | dátum narodenia | születési dátum | született| data "
        "nașterii | data nasterii | doğum tarihi | datum rođenja | datum rojstva"
    ),
    Kind.AGE: _labels(
        "age | alter | âge | edad | età | leeftijd | wiek | idade | ålder | alder | ikä | věk | vek| kor | "
        "életkor | vârsta | yaş | starost | patient age"
    ),
    Kind.NATIONAL_ID: _labels(
        "ssn | social security number | social security | social security no | national id| national id "
        "number | national identity number | national identification number | identity number| personal id | "
        "personal number | personal identification number | id number | id no | id card| id card number | "
        "identity card | identity card number | citizen id | national insurance number| national insurance | "
        "ni number | nino | tax id | tax number | tax identification number | tin| itin | passport | "
        "passport number | passport no | nhs number | sin | tfn | medicare number| aadhaar | aadhaar number "
        "| pan number | nric| steuer id | steuerid | idnr | steuer identifikationsnummer | "
        "steueridentifikationsnummer| steuernummer | sozialversicherungsnummer | rentenversicherungsnummer | "
        "personalausweisnummer| ausweisnummer | reisepassnummer | ahv nummer | ahv nr | svnr| numéro de "
        "sécurité sociale | sécurité sociale | n° de sécurité sociale | nir | numéro insee| numéro fiscal | "
        "numéro de passeport | carte d'identité| dni | nie | nif | documento de identidad | número de "
        "identidad | pasaporte | cédula| número de la seguridad social | curp | rut| codice fiscale | cf | "
        "carta d'identità | passaporto | bsn | burgerservicenummer| paspoortnummer | rijksregisternummer | "
        "numéro de registre national | pesel | numer pesel| dowód osobisty | numer dowodu | nip | paszport| "
        "número de contribuinte | contribuinte | cartão de cidadão | bilhete de identidade | cpf | rg| niss "
        "| personnummer | samordningsnummer | passnummer | cpr | cpr nummer | cpr nr| fødselsnummer | "
        "fodselsnummer | henkilötunnus | hetu | rodné číslo | rodne cislo| személyi szám | adóazonosító | "
        "taj szám | cnp | cod numeric personal | egn | tc kimlik no| jmbg | oib | emšo | isikukood | asmens "
        "kodas | personas kods | kennitala | amka | afm"
    ),
    Kind.DRIVER_LICENCE: _labels(
        "driver license | driver licence | drivers license | driver's license | driver's licence| drivers "
        "licence | driving licence | driving license | driver license number| driver's license number | "
        "drivers license number | driving licence number | driver licence number| dl number | driving "
        "permit| führerschein | führerscheinnummer | fuehrerscheinnummer | führerscheinnr| permis | permis "
        "de conduire | numéro de permis | numéro du permis | n° de permis| permiso de conducir | carnet de "
        "conducir | licencia de conducir | licencia de manejo| patente | patente di guida | numero patente | "
        "numero di patente| rijbewijs | rijbewijsnummer | prawo jazdy | numer prawa jazdy| carta de condução "
        "| carteira de motorista | carteira de habilitação | cnh| körkort | körkortsnummer | kørekort | "
        "kørekortnummer | førerkort | førerkortnummer | ajokortti| ajokortin numero | řidičský průkaz | "
        "číslo řidičského průkazu | vodičský preukaz | jogosítvány| vezetői engedély | permis de conducere | "
        "ehliyet | ehliyet no | vozačka dozvola | vozniško dovoljenje"
    ),
    Kind.ORGANISATION: _labels(
        "company | company name | employer | employer name | organisation | organization | firm | business "
        "name| firma | arbeitgeber | unternehmen | firmenname | société | societe | employeur | entreprise| "
        "raison sociale | empresa | empleador | compañía | razón social | azienda | società | datore di "
        "lavoro| ditta | ragione sociale | bedrijf | bedrijfsnaam | werkgever | pracodawca | nazwa firmy| "
        "empregador | entidade patronal | företag | arbetsgivare | arbejdsgiver | virksomhed | arbeidsgiver| "
        "yritys | työnantaja | zaměstnavatel | zamestnávateľ | cég | munkáltató | companie | angajator| "
        "şirket | işveren | tvrtka | poslodavac | podjetje"
    ),
    Kind.LOCATION: _labels(
        "city | town | city name | place of birth | birthplace | country | ort | stadt | geburtsort | land| "
        "ville | lieu de naissance | commune | pays | ciudad | localidad | población | lugar de nacimiento| "
        "país | città | comune | luogo di nascita | paese | plaats | woonplaats | geboorteplaats| miasto | "
        "miejscowość | miejsce urodzenia | kraj | cidade | localidade | naturalidade| stad | postort | "
        "födelseort | by | poststed | fødested | kaupunki | syntymäpaikka | město| mesto | város | oraș | "
        "şehir | grad"
    ),
    Kind.NATIONALITY: _labels(
        "nationality | citizenship | staatsangehörigkeit | nationalität | staatsbürgerschaft | nationalité| "
        "citoyenneté | nacionalidad | ciudadanía | nazionalità | cittadinanza | nationaliteit| obywatelstwo "
        "| narodowość | nacionalidade | cidadania | medborgarskap | nationalitet| statsborgerskab | "
        "statsborgerskap | kansalaisuus | státní občanství | občanství | národnost| állampolgárság | "
        "cetățenie | naționalitate | uyruk | uyruğu | državljanstvo"
    ),
    Kind.TITLE: _labels(
        "title | salutation | form of address | honorific | prefix | anrede | titel | civilité | titre| "
        "tratamiento | título | titolo | aanhef | tytuł | zwrot grzecznościowy | tratamento | tilltal| "
        "tiltale | titteli "
        "| puhuttelu | oslovení | titul | megszólítás | titlu | unvan | job title | job | profession| "
        "occupation | position | beruf | fonction | puesto | profesión | professione | beroep | zawód| "
        "profissão | yrke"
    ),
})  # fmt: skip
"""The kind of what stands behind a label or in a column under it."""

BROAD: Final = frozenset(
    "name | ad | ime | nume | nimi | via | rue | calle | rua | strada | street | gade | vej | holder | "
    "owner| title | titel | prefix | position | recipient | residence | job | portable | mobile | patente| "
    "permis | land | by | grad | commune | cf | cp | cap | tin | sin | rg | nie | rut | nip | kor"
    "| vek | alder | postal | isim | cell | pays | nombre | country | permis | titular".replace(
        "|", " "
    ).split()
)
"""Labels of one word that mean other things too: alone they say less than the rest."""

_CAMEL: Final = re.compile(r"(?<=[a-zß-öø-ÿ])(?=[A-ZÀ-ÖØ-Þ])")
_BETWEEN: Final = re.compile(r"[\s_.\-/]+")
_LIMITS: Final = frozenset(("max", "min", "maximum", "minimum", "cache"))
"""`max-age` and its like are settings."""
MAX_LABEL_WORDS: Final = 5


@functools.cache
def _kinds() -> Mapping[str, Kind]:
    return {label: kind for kind, labels in LABELS.items() for label in labels}


@functools.lru_cache(maxsize=4096)
def kind_of(label: str) -> tuple[Kind, bool] | None:
    """The kind of a column or field called so, and whether its name means nothing else; None for others.

    `customerName`, `billing_postal_code`: the longest known words at the end count.
    """
    words = _BETWEEN.split(_CAMEL.sub(" ", label.strip()).lower())
    if words[0] in _LIMITS:
        return None
    for first in range(max(0, len(words) - MAX_LABEL_WORDS), len(words)):
        known = " ".join(words[first:])
        kind = _kinds().get(known)
        if kind is not None:
            return kind, known not in BROAD
    return None
