"""The certificate: a bound on the loss of a transformed classifier, learned and evaluated."""

from utils.certificate.cost import one_sided_cost
from utils.certificate.evaluation import Certificate, ClassCertificate, certify
from utils.certificate.inequality import CertifiedTerms, certified_terms
from utils.certificate.learning import learn_certificate
from utils.certificate.matching import match_classes
from utils.certificate.transform import CertificateTransform, impossible
