"""Three more languages, written after the recognisers were: Danish, Finnish and Czech. Plain data.

Whoever changes a recogniser keeps it so: these say what the figures of the others are worth.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from stoker.intake.canaries.locale import Locale, labels_from, words_of

LATER_LOCALES: Final[tuple[Locale, ...]] = (
    Locale(
        "da",
        "DK",
        words_of("Birgitte Aksel Ragnhild Troels Bodil Palle Dorthe Esben Lærke Asger Gudrun Flemming"),
        words_of("Mikkelsen Brøndum Skovgaard Kjærulff Thorup Vestergaard Friis Lauritzen Bjerregaard"),
        words_of("Bjerre Skov Øster Lauri Thor Brønd Mikkel Vester"),
        words_of("gaard sen lund holm toft ager bæk"),
        ("Hr.", "Fru", "Dr."),
        words_of("Nørre Mølle Rosen Strand Kirke Skole Linde Fasan"),
        "{name}{kind} {number}",
        ("Aalborg", "Esbjerg", "Randers", "Kolding", "Horsens", "Vejle", "Silkeborg"),
        "%###",
        "{postcode} {city}",
        ("+45 31 ## ## ##", "20 4# ## ##", "+45 86 12 ## ##", "98 7# ## ##"),
        "%d-%m-%Y",
        "dansk",
        ("{family} Byg ApS", "{family} & Sønner A/S", "Sparekassen {city}", "{family} Rådgivning A/S"),
        "DK",
        "dk",
        labels_from(
            "Navn | E-mail | Telefon | Adresse | Postnummer | Fødselsdato | Alder | Tiltale | Arbejdsgiver | "
            "Statsborgerskab | By | IBAN | Kortnummer | CPR-nummer | Kørekortnummer | IP-adresse | "
            "MAC-adresse | Adgangskode | Position | Dato | Hjemmeside"
        ),
        "{title} {name}, født den {born}, {age} år gammel, statsborgerskab {nationality}, ansat hos "
        "{employer} "
        "i {city} og bor på {address}, {postcode}. Telefon {phone}, e-mail {email}. CPR-nummer {id}, "
        "kørekortnummer {licence}. IBAN {account}, kortnummer {card}. Aftale af {date}, se {site}.",
    ),
    Locale(
        "fi",
        "FI",
        words_of("Aino Väinö Helmi Urho Tuulikki Reijo Sinikka Kalervo Päivi Toivo Marjatta Ilmari"),
        words_of("Korhonen Peltola Kivistö Rautiainen Lehtovaara Hämäläinen Suominen Ylitalo Karjalainen"),
        words_of("Kivi Lehto Rauta Pelto Suo Karja Ylä Häme"),
        words_of("nen la mäki vaara talo niemi salo"),
        ("Herra", "Rouva", "Tri"),
        words_of("Koivu Mänty Kirkko Asema Puisto Tehtaan Ranta Koulu"),
        "{name}{kind} {number}",
        ("Jyväskylä", "Kuopio", "Lappeenranta", "Rovaniemi", "Joensuu", "Seinäjoki", "Hämeenlinna"),
        "####0",
        "{postcode} {city}",
        ("+358 40 #######", "050 4######", "+358 9 4######", "044 7## ####"),
        "%d.%m.%Y",
        "suomalainen",
        ("{family} Oy", "Rakennus {family} Oy", "{city}n Osuuspankki", "{family} ja Pojat Ky"),
        "FI",
        "fi",
        labels_from(
            "Nimi | Sähköposti | Puhelin | Katuosoite | Postinumero | Syntymäaika | Ikä | Puhuttelu | "
            "Työnantaja"
            " | Kansalaisuus | Kaupunki | IBAN | Kortin numero | Henkilötunnus | Ajokortin numero | "
            "IP-osoite | "
            "MAC-osoite | Salasana | Sijainti | Päiväys | Verkkosivu"
        ),
        "{title} {name}, syntynyt {born}, {age} vuotta vanha, kansalaisuus {nationality}, työnantaja "
        "{employer}, asuu osoitteessa {address}, {postcode}. Puhelin {phone}, sähköposti {email}. "
        "Henkilötunnus {id}, ajokortin numero {licence}. IBAN {account}, kortin numero {card}. Sopimus "
        "{date}, katso {site}.",
    ),
    Locale(
        "cs",
        "CZ",
        words_of("Zdeněk Jiřina Oldřich Květa Radovan Libuše Vlastimil Drahomíra Miloslav Božena Bohumil"),
        words_of("Dvořáček Hlaváčková Kratochvíl Sedláčková Zahradník Procházka Veselý Růžičková Kubíček"),
        words_of("Hlav Krat Sed Zahrad Kub Ves Růž Vl"),
        words_of("áček ek ka ník ák ský ička"),
        ("Pan", "Paní", "MUDr."),
        words_of("Nádražní Lipová Komenského Husova Zahradní Školní Masarykova Palackého"),
        "{name} {number}",
        ("Olomouc", "Liberec", "Pardubice", "Jihlava", "Karviná", "Třebíč", "Zlín"),
        "%## ##",
        "{postcode} {city}",
        ("+420 6## ### ###", "777 ### ###", "+420 54# ### ###", "602 ### ###"),
        "%d.%m.%Y",
        "česká",
        ("{family} s.r.o.", "{family} a synové s.r.o.", "Stavby {family} a.s.", "Záložna {city}"),
        "CZ",
        "cz",
        labels_from(
            "Jméno a příjmení | E-mail | Telefon | Adresa | PSČ | Datum narození | Věk | Oslovení | "
            "Zaměstnavatel"
            " | Státní občanství | Město | IBAN | Číslo karty | Rodné číslo | Číslo řidičského průkazu | "
            "IP adresa | MAC adresa | Heslo | Poloha | Datum | Web"
        ),
        "{title} {name}, datum narození {born}, věk {age}, státní občanství {nationality}, pracuje u "
        "{employer}"
        " ve městě {city} a bydlí na adrese {address}, {postcode}. Telefon {phone}, e-mail {email}. Rodné "
        "číslo {id}, číslo řidičského průkazu {licence}. IBAN {account}, číslo karty {card}. Smlouva ze dne "
        "{date}, viz {site}.",
    ),
)

LATER_STREET_KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "DK": ("gade", "vej", "allé", "stræde"),
    "FI": ("katu", "tie", "polku", "kuja"),
    "CZ": ("",),
}
